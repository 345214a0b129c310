#!/usr/bin/env bash
# Trains on Cloud TPU: makes a queued resource or takes the one there is, installs, starts on all workers, follows the log,
# and starts again, on a new pod if need be, until the run is complete. A lost connection costs nothing: run it again.
#
# usage: NAME=pod ZONE=us-west4-a TYPE=v5litepod-256 RUNTIME=v2-alpha-tpuv5-lite MOUNT='...' \
#            launch/tpu_pod.sh train --config configs/mine.py --workdir /mnt/runs/mine [any flag of clip-jax train]
#        NAME=pod ZONE=us-west4-a launch/tpu_pod.sh status|logs|stop|delete
#
# status: of resource and run; logs: follows worker 0; stop: the run saves and ends (Ctrl-C here only ends the following);
# delete: the pod, for good. `train` never deletes a pod that works: delete it when the run is complete, it costs money.
#
# MOUNT, a shell command that each worker runs after the install, brings the file system of the workdir, which all share:
#   Filestore  MOUNT='sudo apt-get install -y -q nfs-common; sudo mkdir -p /mnt/runs; sudo mount 10.0.0.2:/runs /mnt/runs'
#   a bucket   by gcsfuse, where it has a hierarchical namespace: checkpoints are folders that are renamed
# CREATE (--spot): further flags of `gcloud compute tpus queued-resources create`, such as --reserved; '' for on demand.
# SLICES (1): so many slices of TYPE, joined over the network. MAX_FAILURES (10): crashes after which it gives up;
# preemptions do not count. POLL (30): seconds between two looks. Project and account are those of `gcloud config`.
set -euo pipefail

# Exit codes: of a run that was told to stop and has saved; of one that lost another process; of flags that cannot work.
readonly stopped=76 lost=75 wrong=2

say() { echo "tpu_pod: $*" >&2; }

queued() { # ACTION WHAT [FLAG ...]
    gcloud compute tpus queued-resources "$@" --zone="$ZONE" --quiet
}

worker() { # WORKER ACTION [ARGUMENT ...]: of tpu_worker.sh, on worker 0 of the first slice or on all
    local command node=$1
    printf -v command '%q ' bash clip_jax/launch/tpu_worker.sh "${@:2}"
    queued ssh "$NAME" --node="$node" --worker="$node" --command="$command"
}

# WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDED, FAILED, ...; NONE where there is no such resource.
pod_state() {
    local answer
    if answer=$(queued describe "$NAME" --format='value(state.state)' 2>&1); then
        echo "${answer##*$'\n'}"
    elif [[ $answer == *NOT_FOUND* ]]; then
        echo NONE
    else
        say "$answer"
        echo UNKNOWN
    fi
}

# That of tpu_worker.sh on all: running while one does, else the exit code of one that crashed, else what the first says;
# lost where a worker cannot be reached.
run_state() {
    local answers
    answers=$(worker all state 2>/dev/null) || answers=lost
    answers=$(grep -xE 'lost|running|none|told|[0-9]+' <<<"$answers" || echo lost)
    grep -x -m 1 running <<<"$answers" || grep -vxE -m 1 "lost|none|told|0|$stopped|$lost" <<<"$answers" || head -n 1 <<<"$answers"
}

# A pod that works: the one there is, or a new one where there is none, it was taken away, or the request came to nothing.
ensure() {
    local state asked=no create nodes=(--node-id="$NAME")
    read -ra create <<<"${CREATE---spot}"
    if ((${SLICES:-1} > 1)); then
        nodes=(--node-count="$SLICES" --node-prefix="$NAME")
    fi
    while state=$(pod_state) && [[ $state != ACTIVE ]]; do
        say "$NAME: $state"
        case $state in
            NONE)
                queued create "$NAME" "${nodes[@]}" --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "${create[@]}" || return
                asked=yes
                ;;
            SUSPENDED) queued delete "$NAME" --force || return ;;
            FAILED)
                if [[ $asked == yes ]]; then
                    say "refused; why: gcloud compute tpus queued-resources describe $NAME --zone=$ZONE"
                    return 1
                fi
                queued delete "$NAME" --force || return
                ;;
            *) sleep "${POLL:-30}" ;;
        esac
    done
}

# This working tree, without what git ignores, on all workers.
install() {
    local archive
    archive=$(mktemp --suffix=.tgz)
    git ls-files -z --cached --others --exclude-standard | tar --ignore-failed-read -czf "$archive" --null -T - &&
        queued scp "$archive" "$NAME:clip_jax.tgz" --node=all --worker=all &&
        queued ssh "$NAME" --node=all --worker=all --command='mkdir -p clip_jax && tar -xzf clip_jax.tgz -C clip_jax' &&
        worker all install "${MOUNT:-true}"
}

launch() { # FLAG ...: of clip-jax train; tried again, since workers may be taken away, or not let one in yet
    local try
    for try in 1 2 3; do
        ensure || return
        install && worker all start "$@" && return
        say "the start failed, try $try of 3"
        sleep "${POLL:-30}"
    done
    return 1
}

train() { # FLAG ...
    local failures=0 state
    ensure
    [[ $(run_state) == running ]] || launch "$@"
    while true; do
        worker 0 follow || true
        state=$(run_state)
        if [[ $state == lost && $(pod_state) == @(ACTIVE|UNKNOWN) ]]; then
            state=running # as far as can be seen from here
        fi
        case $state in
            running) sleep "${POLL:-30}" && continue ;;
            0) say "complete; '$0 delete' gives the pod back" && return ;;
            told) say "stopped and saved; the same command goes on" && return ;;
            "$wrong") say "not restarted, see the error above" && return "$wrong" ;;
            lost | none | "$stopped" | "$lost") say "the workers were taken away" ;;
            *)
                failures=$((failures + 1))
                say "exit code $state, failure $failures of ${MAX_FAILURES:-10}"
                ((failures < ${MAX_FAILURES:-10})) || return 1
                ;;
        esac
        launch "$@"
    done
}

cd "$(dirname "$0")/.."
action=${1:-}
case $action in
    train | status | logs | stop | delete) : "${NAME:?the name of the pod, see the head of $0}" "${ZONE:?its zone}" ;;
esac
case $action in
    train) : "${TYPE:?such as v5litepod-256}" "${RUNTIME:?such as v2-alpha-tpuv5-lite}" && train "${@:2}" ;;
    status) echo "$(pod_state) $(run_state)" ;;
    logs) worker 0 follow ;;
    stop) worker all stop ;;
    delete) queued delete "$NAME" --force ;;
    *) sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0" && exit 2 ;;
esac
