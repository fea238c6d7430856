"""FedAvg by hand: python fedavg_by_hand.py DATASET [ROUNDS]."""

import copy
import sys

from network import accuracy, network, train

import fedrsic_data


def fedavg(subset, rounds):
    """Train the network at every client of a subset and average it, round by round."""
    server = network(len(subset.classes))
    test = subset.pooled("test")
    clients = [client for client in subset if client.rows("train")]
    rows = sum(client.rows("train") for client in clients)
    for number in range(rounds):
        mean = {name: 0 * tensor for name, tensor in server.state_dict().items()}
        for client in clients:
            model = copy.deepcopy(server)
            train(model, client["train"], seed=number)
            for name, tensor in model.state_dict().items():
                mean[name] += tensor * (client.rows("train") / rows)
        server.load_state_dict(mean)
        print(f"round {number + 1}: accuracy {accuracy(server, test):.4f}", flush=True)
    return server


if __name__ == "__main__":
    data = fedrsic_data.open(sys.argv[1])
    fedavg(data[0], rounds=int(sys.argv[2]) if sys.argv[2:] else 10)
