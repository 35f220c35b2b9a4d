"""Stages and chains: the contract, its checks, and the program that a parameter runs through."""
