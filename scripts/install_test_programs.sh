#!/bin/sh
# Installs the programs that some tests need and pip does not bring: prometheus and promtool (the dashboard), chromium
# (pages in a browser). As root on Debian or Ubuntu with apt-get; elsewhere it says what is missing, and the tests that
# need it are skipped and named at the end of the run. Never fails for a program that it cannot install.
set -eu

packages=
for pair in prometheus:prometheus promtool:prometheus chromium:chromium; do
  command -v "${pair%%:*}" >/dev/null || packages="$packages ${pair##*:}"
done
[ -n "$packages" ] || exit 0
packages=$(printf '%s\n' $packages | sort -u | tr '\n' ' ')

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing for the tests: $packages"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || true
  for package in $packages; do
    # a service that a package would start has no business here
    RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
      echo "$package cannot be installed: tests that need it are skipped" >&2
  done
else
  echo "not installed: $packages; tests that need it are skipped. On Debian: sudo apt-get install $packages" >&2
fi
