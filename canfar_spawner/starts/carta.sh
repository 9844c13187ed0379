#!/bin/sh
# Starts CARTA 4 or newer. Runs in images as they are: it may use what a POSIX shell has, `mkdir`, and `carta`.
# Without a home CARTA crashes, and with an empty token it would serve everybody.
: "${HOME:?CARTA needs a home; the session was given none.}"
: "${CARTA_AUTH_TOKEN:?CARTA needs a token; the session was given none.}"

# The user's first image is not hidden by a question about telemetry. What is there is theirs, and stays.
config=$HOME/.carta/config
if mkdir -p "$config" && [ ! -e "$config/preferences.json" ]; then
  printf '%s\n' '{"version":2,"telemetryConsentShown":true,"telemetryMode":"none","checkNewRelease":false}' \
    >"$config/preferences.json" || :
fi
# It must write a log to the home, or none: in a home that is full or read-only it could not start.
[ -w "$HOME/.carta" ] || set -- --no_log "$@"

command -v carta >/dev/null && carta=carta || carta=carta_backend
# The folder that its file dialog opens first.
folder=$SKAHA_PROJECTS_DIR
[ -d "$folder" ] || folder=$HOME
exec "$carta" --no_browser \
  --host="$CANFAR_IP" \
  --port="$CANFAR_PORT" \
  --http_url_prefix="$CANFAR_PREFIX" \
  --top_level_folder="$SKAHA_TOP_LEVEL_DIR" \
  --enable_scripting \
  --idle_timeout="${CARTA_IDLE_TIMEOUT:-100000}" \
  --omp_threads="$OMP_NUM_THREADS" \
  "$@" "$folder"
