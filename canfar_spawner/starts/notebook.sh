#!/bin/sh
# Starts JupyterLab. Runs in images as they are: it may use what a POSIX shell has, and `jupyter`.
set -f # JUPYTERLAB_ARGS, which an image or a profile may set, is split into words, and nothing more
# Beside what the profile configures, which holds where both say something.
export JUPYTER_CONFIG_PATH="$JUPYTER_CONFIG_PATH${JUPYTER_CONFIG_PATH:+:}$CANFAR_SYSTEM"

# Jupyter's own token stays on and is the session's secret: what reaches the port past the gateway is refused.
# The gateway has checked the visitor and the Origin, so Jupyter need not.
# shellcheck disable=SC2086
exec jupyter lab --no-browser \
  --ServerApp.ip="$CANFAR_IP" \
  --ServerApp.port="$CANFAR_PORT" \
  --ServerApp.port_retries=0 \
  --ServerApp.base_url="$CANFAR_PREFIX/" \
  --ServerApp.root_dir="$SKAHA_TOP_LEVEL_DIR" \
  --ServerApp.preferred_dir="$HOME" \
  --ServerApp.allow_root=True \
  --ServerApp.allow_remote_access=True \
  --ServerApp.quit_button=False \
  --ServerApp.use_redirect_file=False \
  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
  --LabApp.news_url= \
  $JUPYTERLAB_ARGS
