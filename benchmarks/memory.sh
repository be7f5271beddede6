#!/usr/bin/env bash
# Peak memory for huge images: 10,000 x 10,000 at x2 and 5,000 x 5,000 at x4, into BigTIFF and PNG.
#
#     benchmarks/memory.sh [FOLDER]    (default: a temporary one; it needs 8 GB)
#
# Prints what `/usr/bin/time -v` calls the maximum resident set size, and the wall clock.
set -euo pipefail
folder=${1:-$(mktemp -d)}
python=${PYTHON:-python}
image=$(dirname "$0")/../tests/images/bridge.png

make() {  # NAME WIDTH HEIGHT: a mosaic of the photo.
  "$python" - "$image" "$folder/$1" "$2" "$3" <<'PYTHON'
import sys
import pyvips
source, target, width, height = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
photo = pyvips.Image.new_from_file(source)
across, down = width // photo.width + 1, height // photo.height + 1
photo.replicate(across, down).crop(0, 0, width, height).write_to_file(target)
PYTHON
}

measure() {  # INPUT SCALE OUTPUT
  /usr/bin/time -v "$python" -m sruplift upscale "$folder/$1" --model pan --scale "$2" \
    -o "$folder/$3" --overwrite 2>&1 | grep -E "Maximum resident|Elapsed|sruplift|->" |
    sed "s/^[[:space:]]*/$1 x$2 $3: /"
}

make 100mp.jpg 10000 10000
make 25mp.png 5000 5000
measure 100mp.jpg 2 100mp.tif
measure 100mp.jpg 2 100mp.png
measure 25mp.png 4 25mp.tif
measure 25mp.png 4 25mp_x4.png
