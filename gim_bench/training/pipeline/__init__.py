"""Isolated units trained in processes of their own, which hand activations upwards.

Worker k is given a batch by worker k - 1, trains its units on it and hands their outputs to worker
k + 1. Nothing comes back. Every batch is handed on once and in order, so a unit sees the very
activations that it sees where one process trains all units in turn: losses and weights are the same
to the bit, no activation is stale, and no worker waits for the gradients of another.

`ring` carries batches between neighbours, `worker` is what each process does, `trainer` is the
trainer of the process that has started them. On several machines `network` carries batches, the
agents of the ranks start the workers, and `distant` has the trainers. `asynchronous` has worker and
trainer for processes that do not wait for each other, with a `buffer` between neighbours that drops
batches or gives them out again; on several machines it is that of `network_buffer`.
"""
