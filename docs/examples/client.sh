#!/usr/bin/env bash
# A client of the HTTP API, in curl: makes a video, then takes a machine through its whole life.
#
#   POORWILL_URL    the gateway, default http://127.0.0.1:8000
#   POORWILL_TOKEN  one of its tokens; of the local stack: $(cut -d: -f2 ~/.poorwill/stack/api-tokens)
#   IMAGE_URL       the picture to begin with; without it a small one is sent along
#   SSH_HOST SSH_PORT SSH_USER WORKSPACE   a machine that lets the worker's SSH key in; without SSH_HOST only the
#                   video is made. A second one to restore to: RESTORE_PORT, RESTORE_WORKSPACE (default: the same).
set -euo pipefail

url=${POORWILL_URL:-http://127.0.0.1:8000}
image=${IMAGE_URL:-"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAMAAACdt4HsAAAAYFBMVEXHeD3EeEDBeEO8eEi4eEy0eFCveFWreFmoeFyleF+ieGKfeGWaeGqWeG6SeHKOeHaLeHmIeHyEeIB/eIV6eIp2eI5yeJJueJZqeJpkeKBfeKVaeKpUeLBQeLRNeLdKeLowVyMbAAAAb0lEQVR42s3MRWEDAAAEsCvjyoz+XU5EHr0ISPJzA5Qh8mCECoIxygQVBFPkwQx5MEdZIA+WKCvkwRoVBH8oG1QQbFF2yIM9ygEVBEfkwQkVBGeUCyoIrig3VBDcUUHwQB48UUHwQgXBG+WDPPiif8W2/oGZM9tfAAAAAElFTkSuQmCC"}
body=$(mktemp) && trap 'rm -f "$body"' EXIT

# call METHOD PATH [curl's options]: the answer is in $body, and shown; anything but 2xx ends the script.
call() {
    local method=$1 path=$2 status
    shift 2
    echo "> $method $path"
    status=$(curl --silent --show-error --max-time 120 --output "$body" --write-out '%{http_code}' \
        --header "Authorization: Bearer ${POORWILL_TOKEN:?}" --header 'Content-Type: application/json' \
        --request "$method" "$url$path" "$@")
    head -c 600 "$body" && echo
    [[ $status == 2* ]] || { echo "$method $path: HTTP $status" >&2; exit 1; }
}

# field NAME: of the answer.
field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1])).get(sys.argv[2], ""))' "$body" "$1"; }

# follow PATH: until the run is over.
follow() {
    for _ in $(seq 300); do
        call GET "$1"
        case $(field status) in
            done) return ;;
            failed | cancelled) echo "$1: $(field status)" >&2; exit 1 ;;
        esac
        sleep 2
    done
    echo "$1: not over after ten minutes" >&2
    exit 1
}

call GET /health
call GET /ready

call POST /run --header "Idempotency-Key: client-$$" --data "{\"image_url\": \"$image\", \"prompt\": \"dusk falls\"}"
run=$(field id)
call POST /run --header "Idempotency-Key: client-$$" --data "{\"image_url\": \"$image\", \"prompt\": \"dusk falls\"}"
[[ $(field id) == "$run" ]] || { echo "the same key gave another run" >&2; exit 1; }
call GET /processes
follow "/status?id=$run"
curl --silent --show-error --fail --max-time 60 --output /dev/null --write-out 'video: %{size_download} bytes\n' "$(field url)"

call POST /run --data "{\"image_url\": \"$image\", \"prompt\": \"never seen\"}"
call DELETE "/processes/$(field id)"

if [[ -n ${SSH_HOST:-} ]]; then
    name=client-$$
    machine="\"ssh_host\": \"$SSH_HOST\", \"ssh_port\": ${SSH_PORT:-22}, \"workspace_path\": \"${WORKSPACE:-/workspace}\"${SSH_USER:+, \"ssh_user\": \"$SSH_USER\"}"
    there="\"ssh_host\": \"$SSH_HOST\", \"ssh_port\": ${RESTORE_PORT:-${SSH_PORT:-22}}${SSH_USER:+, \"ssh_user\": \"$SSH_USER\"}"
    target=${RESTORE_WORKSPACE:-${WORKSPACE:-/workspace}}

    call POST /api/gpu-snapshots/create --data "{\"instance_id\": \"$name\", \"snapshot_name\": \"before lunch\", $machine}"
    snapshot=$(field snapshot_id)
    follow "/status?id=$(field run_id)"
    call GET "/api/gpu-snapshots?instance_id=$name"

    call POST "/api/instances/$name/hibernate" --data "{$machine, \"destroy_after\": false}"
    follow "/status?id=$(field run_id)"

    call POST "/api/gpu-snapshots/$snapshot/restore?wait=30" --data "{$there, \"workspace_path\": \"$target-restored\"}"
    follow "/status?id=$(field run_id)"
    call POST "/api/instances/$name-again/wake" --data "{\"snapshot_id\": \"$snapshot\", $there, \"workspace_path\": \"$target-woken\"}"
    follow "/status?id=$(field run_id)"

    call DELETE "/api/gpu-snapshots/$snapshot"
    follow "/status?id=$(field run_id)"
fi

call GET /metrics
echo "all of it works"
