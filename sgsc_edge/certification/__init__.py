"""Judges a compressed model: two gates, one certificate, recomputed from the build folder alone.

``certify`` (pure) turns recorded samples and runtime outputs into a certificate; ``verify_folder`` and
``certify_folder`` do the reading, running and writing around it.
"""
