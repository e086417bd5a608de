#!/bin/sh
# Install what the player is tested with, where it is missing and we may; say how to where we may not.
set -u
there() {
  for command in chromium chromedriver firefox-esr janus pulseaudio; do command -v $command >/dev/null || return 1; done
}
# onnxruntime-web is no program: its files are put beside the project's own, without the 100 MB that nobody needs here.
runtime=onnxruntime-web@1.30.0
if command -v npm >/dev/null && [ ! -e .peers/$runtime ]; then
  work=$(mktemp -d)
  files="ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm"
  if (cd "$work" && npm pack --silent $runtime >/dev/null && tar xzf ./*.tgz $(printf 'package/dist/%s ' $files)); then
    mkdir -p .peers && mv "$work/package" .peers/$runtime
  fi
  rm -rf "$work"
fi
there && exit 0
packages="chromium chromium-driver firefox-esr janus pulseaudio"
as_root="sh -eu"
[ "$(id -u)" = 0 ] || as_root="sudo -n $as_root"
if command -v apt-get >/dev/null && $as_root -c true 2>/dev/null; then
  # Debian starts Janus as a service that listens on all addresses: not here, neither now nor when the machine starts.
  $as_root -s $packages <<'END' && exit 0
policy=/usr/sbin/policy-rc.d
if ! command -v janus >/dev/null; then
  mkdir -p /etc/systemd/system
  [ -e /etc/systemd/system/janus.service ] || ln -s /dev/null /etc/systemd/system/janus.service
  if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
  fi
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq </dev/null
apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
END
fi
echo "The player's tests need two browsers, a media server and a sound server. On Debian: sudo apt-get install $packages"
echo "That starts Janus as a service, which they do not need: sudo systemctl disable --now janus"
[ "${CI:-}" != true ]
