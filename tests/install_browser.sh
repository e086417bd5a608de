#!/bin/sh
# Install Debian's Chromium and its driver where they are missing and we may; say how to where we may not.
set -u
command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0
packages="chromium chromium-driver"
if command -v apt-get >/dev/null; then
  if [ "$(id -u)" = 0 ]; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null && exit 0
  elif sudo -n true 2>/dev/null; then
    sudo -n apt-get update -qq && sudo -n apt-get install -y -qq --no-install-recommends $packages >/dev/null && exit 0
  fi
fi
echo "The browser test needs Chromium and its driver. On Debian: sudo apt-get install $packages"
[ "${CI:-}" != true ]
