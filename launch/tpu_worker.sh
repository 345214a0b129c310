#!/usr/bin/env bash
# What launch/tpu_pod.sh runs on each worker, in its copy of the repository: a run that outlives the connection.
#
# usage: tpu_worker.sh install [MOUNT] | start [FLAG ...] | state | follow | stop
#
# install: a Python of our own (the images' is older than 3.11), the package, and MOUNT, a shell command.
# start: clip-jax train with these flags; what is left of an earlier start, waiting for processes that are gone, is ended.
# state: running, none, told (stopped by `stop`) or the run's exit code. follow: its log, until it ends.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

readonly stopped=76 # exit code of a run that was told to stop and has saved
mkdir -p .pod       # log, pid, code, told: of the newest run

pid() { cat .pod/pid 2>/dev/null || echo none; }

runs() { [[ $(pid) != none ]] && kill -0 "$(pid)" 2>/dev/null; }

install() {
    export PATH=$HOME/.local/bin:$PATH
    command -v uv >/dev/null || python3 -m pip install --quiet --user uv || return
    [[ -x .venv/bin/python ]] || uv venv --quiet --python 3.12 .venv || return
    uv pip install --quiet --python .venv/bin/python --editable '.[tpu]' || return
    bash -c "${1:-true}"
}

start() {
    if runs; then
        kill -TERM "$(pid)"
        timeout 90 tail -f --pid="$(pid)" /dev/null || kill -KILL "$(pid)"
    fi
    rm -f .pod/pid .pod/code .pod/told
    setsid nohup bash launch/tpu_worker.sh run "$@" >>.pod/log 2>&1 </dev/null &
    until [[ -s .pod/pid ]]; do sleep 0.1; done
}

run() {
    local code
    .venv/bin/python -m clip_jax train --distributed=auto --stopped_code=$stopped "$@" &
    echo $! >.pod/pid
    wait $!
    code=$?
    if [[ $code == "$stopped" && -e .pod/told ]]; then
        code=told
    fi
    echo "$code" >.pod/code
}

state() {
    cat .pod/code 2>/dev/null || { runs && echo running; } || echo none
}

follow() { tail -n 20 -f --pid="$(pid)" .pod/log; }

stop() {
    touch .pod/told
    kill -TERM "$(pid)"
}

"$@"
