#!/bin/sh
set -eu
export LANGUAGE=C
exec "$@"
