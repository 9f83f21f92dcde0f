"""What a person sees: a live line, what a panel means, the card of a student."""
