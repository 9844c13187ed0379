# Sourced by a desktop before its window manager: the one SAMP hub of the desktop and the applications on it, whose
# lock file SAMP_HUB names. It ends with the desktop.
if command -v samp_hub >/dev/null; then
  samp_lock=${SAMP_HUB#std-lockurl:file://}
  rm -rf "${samp_lock%/*}" # what an earlier start left
  (umask 077 && mkdir -p "${samp_lock%/*}/astropy")
  # It would first look for the internet, and where there is none begin only when that has taken too long.
  printf '[samp]\nuse_internet = False\n' >"${samp_lock%/*}/astropy/astropy.cfg"
  # At an address that applications in other pods reach. Pages have no business with it (SAMP's web profile).
  XDG_CONFIG_HOME=${samp_lock%/*} samp_hub --no-web-profile --addr "$CANFAR_ADDRESS" --log-level WARNING &
  children="${children-} $!"
else
  echo "There is no samp_hub here, so the applications of this desktop exchange no data." >&2
fi
