"""The pages that code writes about itself: every setting, and every public name.

python -m agentopd.reference configuration > docs/configuration.md
python -m agentopd.reference api > docs/api.md
"""
