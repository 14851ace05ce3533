#!/usr/bin/env bash
# From raw data to checkpoints/omni-mini: about a day on two processor cores. Safe to stop and start again at any time.
#   OMNI_DATA=/path/to/data recipes/mini/run.sh [RUNS]
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${OMNI_DATA:?set OMNI_DATA to the data folder (docs/training.md says what is in it)}"
runs=${1:-runs}
train() { omni train "recipes/mini/$1.yaml" --run "$runs/$2"; }

# 0. Material: conversational text read by synthetic voices (training voices only).
[ -f "$OMNI_DATA/synth/manifest.jsonl" ] || omni synth "$OMNI_DATA/synth" --text "$OMNI_DATA/text/self_dialogue.jsonl.gz" --clips 5000

# 0. Each part alone.
train 0_listener listener
omni words "$runs/words/export"
omni words "$runs/words/export" --tune "$runs/listener/export"  # weights of the search, for this listener
train 0_perceiver_layers perceiver
train 0_sentiment sentiment
train 0_language_model language_model
train 0_voice voice
train 0_vocoder vocoder

# 2. The language model learns to think and reply; 1. the adapters learn to write what was heard into it.
train 2_express express
train 2_voice voice_express
train 1_listen_perceive listen_perceive

# Collect, check, measure.
omni pack "$runs" checkpoints/omni-mini
omni info
omni eval all --data "$OMNI_DATA"
omni bench
