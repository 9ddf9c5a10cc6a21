#!/usr/bin/env bash
# The server as others' programs meet it: the packages `openai` for Python and Node, and schemathesis on the document.
#
#   tests/clients.sh [BINARY]        default: target/release/dreamseed
#
# Needs python3 with venv, node with npm and their registries; what it installs goes to CLIENTS_CACHE (default:
# ~/.cache/dreamseed-clients), a folder for each. A recording in DREAMSEED_REFERENCE (media/jfk.wav) is written down where it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=${1:-target/release/dreamseed}
cache=${CLIENTS_CACHE:-$HOME/.cache/dreamseed-clients}
export CLIENTS_SPEECH=${DREAMSEED_REFERENCE:-shared/reference}/media/jfk.wav
openai_python=3.57.0 openai_node=7.59.0 schemathesis=4.32.5

python_env() { # NAME PACKAGE==VERSION: a virtual environment with one package
    local folder=$cache/$1-${2##*==}
    [ -e "$folder/installed" ] && return
    rm -rf "$folder" && python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check "$2" && touch "$folder/installed"
}

mkdir -p "$cache"
python_env openai "openai==$openai_python"
python_env schemathesis "schemathesis==$schemathesis"
node_folder=$cache/node-$openai_node
if [ ! -e "$node_folder/installed" ]; then
    mkdir -p "$node_folder"
    npm install --silent --no-audit --no-fund --prefix "$node_folder" "openai@$openai_node" && touch "$node_folder/installed"
fi

work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$work"' EXIT

start() { # SETTINGS...: a server of its own; sets `server` and CLIENTS_URL
    [ -z "$server" ] || { kill "$server"; wait "$server" 2>/dev/null || true; }
    env "$@" "$binary" serve --listen 127.0.0.1:0 2>"$work/log" &
    server=$!
    for _ in $(seq 600); do
        CLIENTS_URL=$(sed -n 's/.*listens on \(http[^ ]*\).*/\1/p' "$work/log" | head -1)
        [ -n "$CLIENTS_URL" ] && curl -sf "$CLIENTS_URL/health/ready" >/dev/null && export CLIENTS_URL && return
        sleep 0.1
    done
    cat "$work/log" >&2
    echo "the server is not ready" >&2
    exit 1
}

# 1. with keys: the clients' own error classes
CLIENTS_KEY=$("$binary" key new clients --scope chat --scope speech --scope senses --file "$work/keys.toml")
export CLIENTS_KEY
start "DREAMSEED_SERVE_KEYS=$work/keys.toml"
"$cache/openai-$openai_python/bin/python" tests/clients/client.py
NODE_PATH=$node_folder/node_modules node tests/clients/client.cjs

# 2. without keys: every path of the document with made-up requests
start DREAMSEED_SERVE_WARM=0
# few tokens by the document's examples keep a request short; a request that is let in may take its time
"$cache/schemathesis-$schemathesis/bin/schemathesis" run "$CLIENTS_URL/openapi.json" --url "$CLIENTS_URL" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
    --max-examples "${CLIENTS_EXAMPLES:-20}" --seed 7 --request-timeout 60 --phases examples,fuzzing \
    --exclude-path-regex '^/(metrics|v1/models/.*/reload)$'
