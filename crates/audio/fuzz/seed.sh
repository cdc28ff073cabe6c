#!/bin/sh
# Fills corpus/ from the fixtures of the tests.
set -eu
cd "$(dirname "$0")"
for pair in webm:live.webm webm:plain.webm webm:recorder.webm ogg:speech.ogg ogg:flac.ogg mp3:speech.mp3 \
    flac:stereo44k.flac wav:speech.wav opus:speech.ogg; do
    target=${pair%%:*} file=${pair#*:}
    for into in "$target" auto; do
        mkdir -p "corpus/$into"
        { printf '\100'; head -c 20000 "../tests/fixtures/$file"; } >"corpus/$into/$file"
    done
done
mkdir -p corpus/packets
for pair in 0:aac44k 0:aac24k 2:mp3 3:opus 5:flac; do
    { printf "\\00${pair%%:*}"; cat "../tests/fixtures/${pair##*:}.packets"; } >"corpus/packets/${pair##*:}"
done
