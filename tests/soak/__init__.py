"""The soak: hours in minutes for one service, whose memory, descriptors, threads and CPU are measured all the while.

`python -m tests.soak --minutes 20 --plot soak.png`
"""
