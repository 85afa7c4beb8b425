"""Trains on one site's digits. Everything that makes it federated is the lines with `flare`."""

from model import Net, accuracy, fit, load

import fl_runtime.client as flare

flare.init()
config = flare.get_config()
epochs, seed = config["args"].get("epochs", 10), config["args"].get("seed", 0)
features, labels = load(config["data"])
held = len(labels) // 10  # kept for scoring the model that arrives
model = Net(seed)

while flare.is_running():
    received = flare.receive()
    model.load_state_dict(received.params)
    metrics = {"accuracy": accuracy(model, features[:held], labels[:held])}
    name = f"{seed}/{received.current_round}/{flare.get_site_name()}"
    steps = fit(model, features[held:], labels[held:], epochs=epochs, seed=name) if flare.is_train() else 0
    flare.send(
        flare.FLModel(params=model.state_dict(), metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": steps}),
    )
