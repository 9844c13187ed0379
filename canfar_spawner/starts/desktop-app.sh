#!/bin/sh
# desktop-app.sh [PROGRAM [ARGUMENT]...]: shows an application on the desktop DISPLAY.
# Runs in images as they are, under any account: it may use what a POSIX shell has.
set -u
umask 077

# The X cookie of that desktop, as a file of Xau's: one entry for every address and display. `printf` is the shell's
# own, so that the cookie is in no argument list.
XAUTHORITY=$(mktemp "${TMPDIR:-/tmp}/canfar-x.XXXXXX") || exit 1
{
  printf '\377\377\000\000\000\000\000\022MIT-MAGIC-COOKIE-1\000\020'
  read -r cookie <"$CANFAR_SECRET_FILE" || true # no newline ends it
  while [ -n "$cookie" ]; do
    rest=${cookie#??}
    printf "\\$(printf %03o "0x${cookie%"$rest"}")"
    cookie=$rest
  done
} >"$XAUTHORITY"
unset CANFAR_SECRET cookie rest

SHELL=/bin/sh
[ -x /bin/bash ] && SHELL=/bin/bash
# SAMP clients in Java tell others this address, instead of a name that nobody can look up, and listen at a port of the
# kernel's choice, as those in other languages do.
JAVA_TOOL_OPTIONS="-Djsamp.localhost=$CANFAR_ADDRESS -Djsamp.server.port=0 -Djsamp.nosystray=true ${JAVA_TOOL_OPTIONS-}"
export XAUTHORITY SHELL JAVA_TOOL_OPTIONS GDK_SYNCHRONIZE=1
umask 022
cd "$HOME" || exit 1

# On a desktop that is just starting, its SAMP hub may be about to write its lock file. Whoever finds none begins a
# hub of its own, which the others would not reach.
lock=${SAMP_HUB-}
lock=${lock#std-lockurl:file://}
tries=20
while [ -n "$lock" ] && [ -d "${lock%/*}" ] && [ ! -e "$lock" ] && [ $tries -gt 0 ]; do
  sleep 1
  tries=$((tries - 1))
done
unset lock tries

# What CANFAR's images bring: /skaha/init.sh, which returns, and /skaha/startup.sh, which runs its one argument.
[ -x /skaha/init.sh ] && /skaha/init.sh
terminal=${0%/*}/desktop-terminal.sh
[ -x /skaha/startup.sh ] && exec /skaha/startup.sh "$terminal"
[ $# -gt 0 ] && exec "$@"
exec "$terminal"
