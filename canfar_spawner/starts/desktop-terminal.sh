#!/bin/sh
# A terminal with the application's title: the one argument that an image's /skaha/startup.sh runs in the end.
exec xterm -T "${CANFAR_TITLE:-Terminal}" -fa Monospace -fs 11
