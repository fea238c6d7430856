"""FedAvg as a Flower app: python flower_app.py DATASET [ROUNDS]."""

import sys

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from network import accuracy, network, train

import fedrsic_data

SUBSET, ROUNDS = fedrsic_data.open(sys.argv[1])[0], int(sys.argv[2]) if sys.argv[2:] else 10
client_app, server_app = ClientApp(), ServerApp()


@client_app.train()
def at_client(message, context):
    client, model = SUBSET[context.node_config["partition-id"]], network(len(SUBSET.classes))
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    if client.rows("train"):
        train(model, client["train"], seed=message.content["config"]["server-round"] - 1)
    rows = MetricRecord({"num-examples": client.rows("train")})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": rows}), reply_to=message)


@server_app.main()
def at_server(grid, context):
    model, test = network(len(SUBSET.classes)), SUBSET.pooled("test")

    def judge(number, arrays):
        model.load_state_dict(arrays.to_torch_state_dict())
        print(f"round {number}: accuracy {accuracy(model, test):.4f}", flush=True)

    FedAvg(fraction_evaluate=0).start(grid, ArrayRecord(model.state_dict()), ROUNDS, evaluate_fn=judge)


if __name__ == "__main__":  # without the address, Ray joins the last cluster of this machine
    run_simulation(server_app, client_app, len(SUBSET), backend_config={"init_args": {"address": "local"}})
