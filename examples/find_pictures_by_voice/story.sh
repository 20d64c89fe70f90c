#!/usr/bin/env bash
# A device learns what pictures show and what voices say, each through text, and then finds pictures by voice: though no
# picture ever came with a voice, nor any picture and any voice with the same text.
#
#   bash examples/find_pictures_by_voice/story.sh WORK BUNDLE [DATA]
#
# WORK is a new folder for everything; BUNDLE is what 'mmcl-edge export --text minilm' made; DATA holds the dataset
# stamps (by default MMCL_EDGE_DATA).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir "$1"
work=$(cd "$1" && pwd)
bundle=$2
export MMCL_EDGE_HOME=$work/home

say() { printf '\n# %s\n' "$*"; }

say 'Pairs: pictures with text, voices with other texts; an album, and voices that ask, of texts that are never taught'
python "$here/pairs.py" "$work/pairs" ${3:+"$3"}
mmcl-edge init --bundle "$bundle"

say 'Teach what pictures show, then what voices say'
mmcl-edge adapt --modality image --mediator text --data "$work/pairs/pictures"
mmcl-edge adapt --modality speech --mediator text --data "$work/pairs/voices"

say 'Put the album in the index, and ask it by voice, and by words'
mmcl-edge index build "$work/pairs/album"
voices=("$work"/pairs/questions/*)
mmcl-edge index query "${voices[0]}" --as speech --modality image -k 3
mmcl-edge index query "a bird" --modality image -k 3

say 'The same from Python, with every voice'
python "$here/ask.py" "$work/pairs"
