#!/usr/bin/env bash
# Makes the environment in which LeRobot judges our output, and prints the path of its python.
#
#   python=$(tests/interop/environment.sh) && "$python" tests/interop/judge.py DATASET --report report.json
#
# LeRobot needs Python >= 3.12; all that is asked of the machine is Debian's apt, bash, flock, uv and a Python
# with numpy (`make environment` installs both). Debian trixie packages with python3.13 and the FFmpeg
# libraries are downloaded and unpacked, not installed: nothing of them runs as root, no chroot, no mount, no
# namespace. The wrapper `env/bin/python` starts the unpacked python with its own loader and libraries,
# so paths, certificates, name resolution and proxies are those of the machine itself. NVIDIA's libraries, 3 GB
# that nothing here calls, stay away (cuda_stand_ins.py).
#
# The folder is ${XDG_CACHE_HOME:-~/.cache}/annotationrun/interop-<digest of the inputs>. `.ready` in it is
# written last; a folder without it is an interrupted build and is made anew. A lock keeps two builds apart.
#
# Settings: UV (path of uv), PYTHON (path of a Python with numpy, default .venv's), INTEROP_DEBIAN_MIRROR
# (default: the mirror in the machine's own apt sources).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
support=$here/../support
uv=${UV:-$here/../../.venv/bin/uv}
python=${PYTHON:-$here/../../.venv/bin/python}
release=trixie
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
disk_needed_gigabytes=5  # 2.6 GB in the end, the downloaded wheels come on top while the cache of uv is cold

inputs=("$here/environment.sh" "$here/requirements.txt" "$support/stand_ins.txt" "$support/cuda_stand_ins.py")
digest=$(cat "${inputs[@]}" <(uname -m) | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/annotationrun
folder=$cache/interop-$digest

say() { printf 'interop environment: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

install_host_tools() {
  local missing=()
  command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
  [[ -r $keyring ]] || missing+=(debian-archive-keyring)
  if (( ${#missing[@]} )); then
    (( EUID == 0 )) || fail "needs the Debian packages ${missing[*]}; install them or run this as root"
    say "installing ${missing[*]} with apt-get"
    { apt-get -q update && apt-get -q install -y --no-install-recommends "${missing[@]}"; } >&2 \
      || fail "apt-get could not install ${missing[*]}"
  fi
}

debian_mirror() {
  local format="\$(LABEL) \$(COMPONENT) \$(REPO_URI)" mirror
  for attempt in 1 2; do
    mirror=$(apt-get indextargets --format "$format" 'Created-By: Packages' | awk '$1 == "Debian" && $2 == "main" {print $3; exit}')
    [[ -n $mirror ]] && { echo "$mirror"; return; }
    # The label is read from the downloaded lists, which images of containers leave out.
    (( attempt == 1 && EUID == 0 )) && apt-get -q update >&2
  done
  fail "no Debian mirror in the apt sources of this machine; set INTEROP_DEBIAN_MIRROR"
}

unpack_debian() {  # $1: folder to fill
  local mirror=${INTEROP_DEBIAN_MIRROR:-$(debian_mirror)}
  local apt_settings=$folder/apt.conf
  # mmdebstrap reads no apt settings of the machine: proxies and the like are handed over.
  apt-config dump --format '%F "%v";%n' Acquire | grep -vE 'IndexTargets|cdrom| "";$' > "$apt_settings" || true
  say "unpacking Debian $release (python3.13, FFmpeg) from the mirror of this machine"
  # chrootless + extract: packages are fetched and unpacked, no script of any package runs.
  mmdebstrap --quiet --mode=chrootless --variant=extract --format=directory --aptopt="$apt_settings" \
    --include=python3.13,libpython3.13,ffmpeg,ca-certificates "$release" "$1" \
    "deb [signed-by=$keyring] $mirror $release main" >&2 2> >(grep -v 'chrootless mode as root' >&2) \
    || fail "mmdebstrap could not unpack Debian $release; its messages are above"
  rm -f "$apt_settings" "$1/etc/apt/apt.conf.d/99mmdebstrap"
}

write_python() {  # $1: root of the unpacked Debian, $2: folder of the environment
  local loader libraries
  loader=$(find "$1"/usr/lib* -maxdepth 2 -name 'ld-linux*.so.*' -print -quit)
  [[ -n $loader ]] || fail "no dynamic loader in $1"
  # Some libraries (pulseaudio's, blas) lie in subfolders that only an installed system knows.
  libraries=$(find "$1"/usr/lib/*-linux-gnu* -name 'lib*.so*' -printf '%h\n' | sort -u | paste -sd:)
  mkdir -p "$2/bin" "$2/lib/python3.13/site-packages"
  printf 'home = %s/usr/bin\ninclude-system-site-packages = false\nversion = 3.13\n' "$1" > "$2/pyvenv.cfg"
  cat > "$2/bin/python" <<WRAPPER
#!/bin/sh
unset PYTHONHOME PYTHONPATH LD_PRELOAD
exec '$loader' --inhibit-cache --argv0 "\$0" --library-path '$libraries' '$1/usr/bin/python3.13' "\$@"
WRAPPER
  chmod +x "$2/bin/python"
}

install_stand_ins() {  # $1: root of the environment; what makes them is there for as long as that takes
  local tools=$folder/stand_ins
  "$uv" pip install --quiet --no-cache --python "$python" --target "$tools" --require-hashes \
    -r "$support/stand_ins.txt" >&2 || fail "uv could not install $support/stand_ins.txt; its messages are above"
  PYTHONPATH=$tools "$python" "$support/cuda_stand_ins.py" "$1"/lib/python*/site-packages >&2 \
    || fail "the stand-ins for NVIDIA's libraries could not be made"
  rm -rf "$tools"
}

build() {
  local free_gigabytes
  rm -rf "$folder"
  mkdir -p "$folder"
  [[ -x $uv ]] || fail "no uv at $uv; run 'make environment' first, or set UV"
  free_gigabytes=$(df --output=avail -BG "$cache" | tail -1 | tr -dc 0-9)
  (( free_gigabytes >= disk_needed_gigabytes )) \
    || fail "$cache has $free_gigabytes GB free, $disk_needed_gigabytes GB are needed"
  install_host_tools
  unpack_debian "$folder/debian"
  say "$SECONDS s; installing LeRobot (1 GB of packages the first time)"
  write_python "$folder/debian" "$folder/env"
  "$uv" pip install --quiet --python "$folder/env/bin/python" --no-deps --require-hashes \
    -r "$here/requirements.txt" >&2 || fail "uv could not install $here/requirements.txt; its messages are above"
  install_stand_ins "$folder/env"
  say "$SECONDS s; importing LeRobot and torchcodec once"
  "$folder/env/bin/python" -c 'import torchcodec, lerobot.datasets.lerobot_dataset' >&2 \
    || fail "LeRobot does not start in $folder; remove the folder and try again"
  touch "$folder/.ready"
  say "ready after $SECONDS s, $(du -sh "$folder" | cut -f1) in $folder"
}

mkdir -p "$cache"
exec 9> "$cache/interop.lock"
flock --nonblock 9 || { say "another build is running: waiting for it"; flock 9; }
[[ -e $folder/.ready ]] || build
# Digests of other checkouts or of older inputs: theirs to keep, the reader's to remove.
for other in "$cache"/interop-*/; do
  [[ $other == "$folder/" ]] || say "not used by this checkout, may be removed: $other"
done
echo "$folder/env/bin/python"
