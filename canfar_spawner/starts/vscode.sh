#!/bin/sh
# Starts code-server. Runs in images as they are: it may use what a POSIX shell has, and `code-server`.
# Its password stays on, as the hash HASHED_PASSWORD, which its cookie has to equal: that is the session's secret,
# which the gateway alone sends, so what reaches the port past the gateway is refused. No password has that hash.
# The gateway signs visitors in and out, so the editor offers no sign-out of its own (auth=none is for its page).
case ${SHELL:-} in
  '' | */false | */nologin) SHELL=$(command -v bash || command -v sh) ;;
esac
export SHELL
# Who has no settings yet begins without what asks for accounts of others, and can change that like any setting.
settings=$HOME/.local/share/code-server/User/settings.json
if [ ! -e "$settings" ] && mkdir -p "${settings%/*}"; then
  cat >"$settings" <<'JSON'
{
  "chat.disableAIFeatures": true,
  "workbench.secondarySideBar.defaultVisibility": "hidden",
  "workbench.startupEditor": "none"
}
JSON
fi
# Terminals have the image's PATH: a login shell, which the editor would ask for its variables, resets it in Debian.
# A home may have a path too long for a socket, or be open in another session.
socket=$(mktemp -d)/session.sock
exec code-server \
  --config /dev/null \
  --user-data-dir "$HOME/.local/share/code-server" \
  --bind-addr "$CANFAR_IP:$CANFAR_PORT" \
  --auth password \
  --vscode-option auth=none \
  --vscode-option force-disable-user-env \
  --session-socket "$socket" \
  --disable-telemetry \
  --disable-update-check \
  --disable-workspace-trust \
  --disable-getting-started-override \
  --ignore-last-opened \
  "$HOME"
