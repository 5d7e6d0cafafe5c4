#!/usr/bin/env bash
# Makes the videos that the emulator gives for any prompt: four seconds, without sound, whose picture
# says that no model ran. The file's index (moov) stands last, where the emulator adds the prompt.
# They are in the repository; run this to change them.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need ffmpeg ffmpeg fonts-dejavu-core
videos=$here/internal/backend/emulator/videos

# video NAME WIDTH HEIGHT SIZE: SIZE is that of the title's letters.
video() {
  local font=/usr/share/fonts/truetype/dejavu text=x=\(w-text_w\)/2:fontcolor=white
  local title="$text:fontfile=$font/DejaVuSans-Bold.ttf:fontsize=$4" small="$text:fontfile=$font/DejaVuSans.ttf:fontsize=$(($4 * 2 / 3))"
  ffmpeg -hide_banner -loglevel error -y \
    -f lavfi -i "color=c=0x14213d:s=$2x$3:r=12:d=4" -f lavfi -i "color=c=0xfca311:s=$2x12:r=12:d=4" -filter_complex "
      [0]drawtext=$title:text='ringback emulator':y=h/2-$4*2,
      drawtext=$small:text='No model ran.':y=h/2-$4/3,
      drawtext=$small:text='Every prompt gets this video.':y=h/2+$4*2/3[said];
      [said][1]overlay=x='w*t/4-w':y=H-h,format=yuv420p" \
    -c:v libx264 -profile:v baseline -level 3.0 -preset veryslow -crf 30 -g 48 -threads 1 -an \
    -bsf:v filter_units=remove_types=6 -fflags +bitexact -flags:v +bitexact -map_metadata -1 "$videos/$1.mp4"
}

video landscape 640 360 36
video portrait 360 640 30
ls -l "$videos"
