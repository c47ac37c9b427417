#!/usr/bin/env bash
# Builds the site: `bash docs/build.sh [SITE [SOURCES]]`, by default into _site/, from sources gathered in _proc/site/.
# Nothing is fetched, and no notebook is run: pages show the outputs that the notebooks hold.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
site=$(realpath -m "${1:-$root/_site}")
sources=$(realpath -m "${2:-$root/_proc/site}")
for folder in "$site" "$sources"; do  # each has a file that tells it from a folder given by mistake
    if [ -e "$folder" ] && ! [ -e "$folder/.buildinfo" ] && [ -n "$(ls -A "$folder")" ]; then
        echo "$folder is not a site: delete it yourself" >&2
        exit 1
    fi
    rm -rf "$folder"
done
python "$root/docs/prepare.py" "$sources"
# Sphinx leaves files beside the folder that it builds into
out="$sources/.build"
python -m sphinx -q -W --keep-going -n -b html -c "$root/docs" -d "$out/doctrees" "$sources" "$out/html"
mv "$out/html" "$site"
echo "$site/index.html"
