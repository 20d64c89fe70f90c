"""Federated rounds: a server asks devices to learn, waits a while, merges what came, and asks again.

The rounds themselves are plain functions over packs (``device.take_part``, ``server.Rounds``). Flower carries the
messages between them (``flower_device``, ``flower_server``, extra ``federated``); nothing else here imports it.
"""
