#!/usr/bin/env bash
# Three devices learn different things, and then all know everything: a whole fleet on one machine.
#
#   bash examples/fleet/story.sh WORK BUNDLE [TOLERANCE]
#
# WORK is a new folder for everything; BUNDLE is what 'mmcl-edge export' made; TOLERANCE is the accuracy that a merge or
# a sync may cost. Real devices each run their own lines, and the store is a bucket; nothing else changes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir "$1"
work=$(cd "$1" && pwd)
bundle=$2
tolerance=(${3:+--tolerance "$3"})
store=$work/store

say() { printf '\n# %s\n' "$*"; }
admin() { MMCL_EDGE_HOME=$work/admin mmcl-edge "$@"; }
device() { local name=$1; shift; MMCL_EDGE_HOME=$work/$name mmcl-edge "$@"; }

say 'Samples: each device will see other digits'
python "$here/samples.py" "$work/samples"

say 'Key ceremony: two of three people must sign the root of trust; one key releases, one renews what expires'
export MMCL_EDGE_KEYS=$work/keys MMCL_EDGE_FLEET=$store
MMCL_EDGE_PASSPHRASE=${MMCL_EDGE_PASSPHRASE:-$(python -c 'import secrets; print(secrets.token_hex(16))')}
export MMCL_EDGE_PASSPHRASE
for person in alice bob carol release online; do admin keys new $person; done
admin fleet init "$store" --root-key alice --root-key bob --root-key carol --threshold 2 \
  --targets-key release --online-key online --bins 16 --root-file "$work/root.json"

while read -r name task; do
  say "The device $name gets the bundle and a key of its own, is enrolled, and joins"
  device "$name" init --bundle "$bundle"
  (unset MMCL_EDGE_PASSPHRASE; device "$name" keys new --device)
  device "$name" keys show --device --public-out "$work/$name.pub.json"
  admin fleet devices add "$name" --key "$work/$name.pub.json"
  device "$name" sync "$store" --root "$work/root.json"

  say "$name learns $task and uploads what it learned: sums, no samples"
  device "$name" adapt --task "$task" --data "$work/samples/$task" --learner analytic
  (unset MMCL_EDGE_PASSPHRASE; device "$name" push)
done <<'DEVICES'
kitchen digits_0_3
garage digits_4_6
garden digits_7_9
DEVICES

say 'The admin collects, merges, judges on samples that nobody learned from, signs, tries it on beta, and promotes'
admin init --bundle "$bundle"
admin fleet inbox list
admin fleet inbox collect --out "$work/collected"
admin merge "$work/collected" --eval "$work/samples/check" "${tolerance[@]}" --out "$work/merged"
merged=$(echo "$work"/merged/*)
admin pack sign "$merged" --key release
admin fleet publish "$merged" --channel beta
admin fleet promote
admin fleet status

for name in kitchen garage garden; do
  say "$name syncs, and knows what the others learned"
  device "$name" sync "${tolerance[@]}"
  device "$name" predict "$work"/samples/check/{one,five,nine}/*_000.*
done
