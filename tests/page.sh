#!/usr/bin/env bash
# The server's page in a headless Chromium that has a portrait for a camera and a speech for a microphone: it fails where the skeleton is
# not drawn, words or feedback do not appear, or the console tells of an error. Needs chromium, ffmpeg and npm, and the release binary.
#
#   tests/page.sh [--picture FILE.png]     the page at the end of its lesson, as the README shows it
#   CAMERA=FILE tests/page.sh              another film for the camera
set -euo pipefail
cd "$(dirname "$0")/.."

binary="${DREAMSEED:-target/release/dreamseed}"
browser="${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}"
[ -x "$binary" ] || { echo "build it first: cargo build --release"; exit 2; }
[ -n "$browser" ] || { echo "install chromium, or name one as CHROMIUM"; exit 2; }
work="$(mktemp -d)"
server=
cleanup() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

# 1. what the camera sees and the microphone hears: public-domain material of the demo
"$binary" pull sample-portrait sample-speech >/dev/null
samples="${DREAMSEED_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/dreamseed}"
portrait="$(find "$samples" -name astronaut.png | head -1)"
speech="$(find "$samples" -name jfk.wav | head -1)"
if [ -n "${CAMERA:-}" ]; then
  ffmpeg -v error -stream_loop 3 -i "$CAMERA" -t 24 -r 15 -pix_fmt yuvj420p -q:v 3 -filter_complex \
    "[0]scale=960:540:force_original_aspect_ratio=increase,crop=960:540,gblur=24,eq=brightness=-0.08[back];[0]scale=-1:540[front];[back][front]overlay=(W-w)/2" \
    "$work/camera.mjpeg"
else
  ffmpeg -v error -loop 1 -t 16 -i "$portrait" -r 15 -pix_fmt yuvj420p -q:v 3 -vf \
    "scale=1024:-1,crop=960:540:'32+30*sin(2*PI*t/4)':'20+8*sin(2*PI*t/2)'" "$work/camera.mjpeg"
fi
ffmpeg -v error -i "$portrait" -vf scale=640:-1 "$work/still.jpg"
ffmpeg -v error -i "$speech" -t 5 -c copy "$work/speech.wav"

# 2. the server, on a free port
"$binary" serve --listen 127.0.0.1:0 2>"$work/log" &
server=$!
for _ in $(seq 600); do
  address="$(sed -n 's/.*listens on \(http:[^ ]*\).*/\1/p' "$work/log")"
  [ -n "$address" ] && curl -fs "$address/health/ready" >/dev/null && break
  kill -0 "$server" || { cat "$work/log"; exit 1; }
  sleep 0.1
done

# 3. the page
tools=target/page
[ -d "$tools/node_modules/playwright-core" ] || npm install --silent --no-audit --no-fund --prefix "$tools" playwright-core@1.56.1 >/dev/null
NODE_PATH="$tools/node_modules" ADDRESS="$address" BROWSER="$browser" WORK="$work" SPEECH="$speech" \
  node tests/page/check.cjs "$@"
