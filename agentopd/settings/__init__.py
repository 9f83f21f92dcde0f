"""What the settings of every room are made of: strict models, parts chosen by ``kind``, schedules, and clear refusals."""
