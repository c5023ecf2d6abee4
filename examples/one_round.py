"""Rounds of pFedMoAP by hand: the calls that ``promptfleet.run_federation`` makes, in their order and without Ray.

Run: python examples/one_round.py      (the first time it encodes the digits, which takes some seconds)
"""

from dataclasses import replace
from functools import partial

import promptfleet
from promptfleet.methods import Arrived, Call, Task, config_class, load_method, run_alone, run_together


def main(**values) -> dict:
    """Run the rounds, print the accuracy after each of them, and return the states and accuracies."""
    config = config_class("pfedmoap").model_validate({"method": "pfedmoap", "clients": 4, "rounds": 2, **values})
    clients = range(config.clients)
    method, draw = load_method(config.method), partial(promptfleet.stream, config.seed)
    prepared = promptfleet.prepare(config)  # CLIP's features of all images and class names
    world, data = prepared.world(config), promptfleet.client_examples(config, prepared)

    def downloads(round_index, purpose):
        call = Call(world, round_index, clients, purpose, draw("select", round_index=round_index))
        return method.select(server, call).items()

    def task(function, round_index, client, download):
        rng = draw(function, client=client, round_index=round_index)
        return Task(world, client, round_index, private[client], download, data[client].train, data[client].val, rng)

    def accuracy(round_index):
        """Return the mean over clients of the accuracy on their own test images."""
        shares = []
        for client, download in downloads(round_index, "evaluate"):
            asked, test = task("personalize", round_index, client, download), data[client].test
            personal = run_alone(world, method.personalize(asked), "personalize")
            predicted = method.predict(replace(asked, private=personal), test.images).argmax(dim=1)
            shares.append((predicted == test.labels).float().mean().item())
        return sum(shares) / len(shares)

    # Before round 1 the server has a global prompt and an empty pool of experts; each client has its own gate.
    server = run_alone(world, method.init_server(world, draw("init_server")), "init_server")
    private = {client: method.init_client(world, client, draw("init_client", client=client)) for client in clients}
    accuracies = [accuracy(0)]
    for now in range(1, config.rounds + 1):
        # Each client downloads the global prompt and its experts, and trains its prompt and its gate.
        tasks = [task("local_update", now, *one) for one in downloads(now, "train")]
        updates = dict(zip(clients, run_together(world, map(method.local_update, tasks)), strict=True))
        # The prompts travel, the private states stay; the server renews the pool and the global prompt.
        private = {client: update.private for client, update in updates.items()}
        uploads = {client: update.upload for client, update in updates.items()}
        examples = {client: len(data[client].train) for client in clients}
        arrived = Arrived(world, now, uploads, examples, draw("aggregate", round_index=now))
        server = run_alone(world, method.aggregate(server, arrived), "aggregate")
        accuracies.append(accuracy(now))
    print("mean test accuracy before and after each round:", *(f"{value:.3f}" for value in accuracies))
    return {"server": server, "private": private, "accuracies": accuracies}


if __name__ == "__main__":
    main()
