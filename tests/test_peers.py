"""Who is said to be lost, and who to have failed."""

from clip_jax.peers import Judge, Verdict, named


def beats(*counts: int | str) -> dict[int, str]:
    return {process: str(count) for process, count in enumerate(counts)}


def test_all_beating_is_no_verdict() -> None:
    judge = Judge(3, 0.0)
    assert all(judge.verdict(beats(n, n, n), {}, 2.0 * n) is None for n in range(1, 100))


def test_silence_is_a_loss_sooner_where_others_are_in_trouble() -> None:
    calm, troubled = Judge(3, 0.0), Judge(3, 0.0)
    seconds: dict[str, float] = {}
    for n in range(1, 30):
        now = 2.0 * n
        reset = {0: "Gloo: connection reset"} if n > 3 else {}
        for name, judge, troubles in (("calm", calm, {}), ("troubled", troubled, reset)):
            verdict = judge.verdict(beats(n, min(n, 3), n), troubles, now)
            if verdict and name not in seconds:
                assert verdict == Verdict(words="process 1 of 3 was lost")
                seconds[name] = now - 6.0
    assert seconds["troubled"] <= 12
    assert seconds["calm"] <= 40


def test_a_process_that_never_beat_was_lost() -> None:
    judge = Judge(2, 100.0)
    assert judge.verdict({0: "1"}, {}, 120.0) is None
    assert judge.verdict({0: "9"}, {}, 131.0) == Verdict(words="process 1 of 2 was lost")


def test_who_is_done_is_not_silent() -> None:
    judge = Judge(2, 0.0)
    assert judge.verdict(beats(1, "done"), {}, 2.0) is None
    assert judge.verdict(beats(50, "done"), {}, 100.0) is None


def test_an_error_of_one_process_is_its_own_once_all_others_are_seen_to_live() -> None:
    judge = Judge(3, 0.0)
    troubles = {1: "OSError: no such disk"}
    verdicts = [judge.verdict(beats(n, n, n), troubles, 2.0 * n) for n in range(1, 9)]
    assert verdicts[:4] == [None] * 4
    assert verdicts[-1] == Verdict(words="process 1 of 3 failed (OSError: no such disk)", own=(1,))


def test_an_error_of_all_is_each_ones_own_at_once() -> None:
    troubles = dict.fromkeys(range(2), "ValueError: batch")
    assert Judge(2, 0.0).verdict(beats(1, 1), troubles, 2.0) == Verdict(words="all processes failed", own=(0, 1))


def test_the_lost_are_named_though_all_that_are_left_report_errors() -> None:
    judge = Judge(4, 0.0)
    found = None
    for n in range(1, 10):
        counts = beats(n, n, 1, 1)
        found = found or judge.verdict(counts, dict.fromkeys((0, 1), "ValueError: Gloo"), 2.0 * n)
    assert found == Verdict(words="processes 2, 3 of 4 were lost")


def test_names() -> None:
    assert named([2], 4) == "process 2 of 4 was"
    assert named([1, 2], 4, "failed") == "processes 1, 2 of 4 failed"
