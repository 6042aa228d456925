"""
Fuzzing: bytes by chance, guided by which lines they reach, against properties that always hold.

``make fuzz`` runs it for long, and keeps what it finds in ``corpus``; ``tests/core/test_fuzz.py``
replays the corpus in every run of the tests. Each target is a module with a function ``check(data)``,
which raises where something does not hold.
"""
