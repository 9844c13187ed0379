#!/bin/sh
# Starts a desktop: an X server that shows itself by VNC, Xfce on it, and the page through which it is seen.
# Ends with Xfce's status, when its user logs out, and also when the X server or the page dies.
set -u

if ! command -v canfar-desktop-bridge >/dev/null; then
  if [ -x /dockerstartup/vnc_startup.sh ]; then # an image made for CANFAR, with a page of its own
    export VNC_PW="$skaha_sessionid"
    exec /dockerstartup/vnc_startup.sh
  fi
  echo "This image cannot show a desktop: it has no canfar-desktop-bridge and no /dockerstartup/vnc_startup.sh." >&2
  exit 127
fi

# Sockets and cookies of this desktop alone, so that two of them can share a home. In /tmp, since a socket's path is short.
run=$(mktemp -d /tmp/canfar-desktop.XXXXXX) || exit 1
children=
finish() {
  status=$?
  trap '' TERM INT HUP
  # shellcheck disable=SC2086
  kill $children 2>/dev/null
  wait
  rm -rf "$run"
  exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM INT HUP

secret=$(cat "$CANFAR_SECRET_FILE") || exit 1
unset CANFAR_SECRET # the desktop's programs need it no more than embedded mode gives it to them
derived() { printf '%s:%s' "$1" "$secret" | sha256sum | cut -d ' ' -f 1; }
export DISPLAY="$CANFAR_DISPLAY" XDG_RUNTIME_DIR="$run" XAUTHORITY="$run/x" ICEAUTHORITY="$run/ice"
CANFAR_APPS_TOKEN=$(derived apps)
export CANFAR_APPS_TOKEN
touch "$XAUTHORITY"
xauth -q -f "$XAUTHORITY" <<END
add $DISPLAY . $(derived x11 | cut -c 1-32)
END

case $CANFAR_IP in
127.*) listen=-nolisten ;; # programs of the desktop run here
*) listen=-listen ;; # they run in pods of their own
esac
mkfifo "$run/ready"
Xvnc "$DISPLAY" -auth "$XAUTHORITY" "$listen" tcp -desktop Desktop -geometry 1280x800 -depth 24 \
  -rfbport -1 -rfbunixpath "$run/vnc" -rfbunixmode 0600 -SecurityTypes None -AlwaysShared \
  -MaxCutText 16777216 -SendPrimary=0 -displayfd 3 3>"$run/ready" &
children=$!
read -r _ <"$run/ready" || { echo "The X server did not start." >&2; exit 1; }

canfar-desktop-software prepare || exit 1
canfar-desktop-software watch &
children="$children $!"
# shellcheck disable=SC1091
[ ! -e "$CANFAR_SYSTEM/samp.sh" ] || . "$CANFAR_SYSTEM/samp.sh"

canfar-desktop-bridge "$run/vnc" dbus-run-session -- xfce4-session &
children="$! $children"
wait $!
