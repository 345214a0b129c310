"""The speed of encoding is measured over all devices."""

from clip_jax.evals.speed import measure_speed


def test_speed_is_measured_over_all_devices(small, small_params, mesh8):
    speed = measure_speed(small, small_params, mesh8, batch_size=20)
    assert speed.batch_size == 24
    assert speed.images > 0
    assert speed.texts > 0
    assert speed.images_spread >= 0
    assert 3 <= speed.rounds <= 15
    assert speed.device.startswith("8 x CPU")
