"""A gRPC server with TF Serving's methods that does what a test tells it to, and a toy model for it. Neither needs TensorFlow."""

import time
from concurrent import futures
from types import SimpleNamespace

import grpc
import numpy as np

from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.connection import METADATA, PREDICT, STATUS
from elcrec_tf.serving.tensors import STRING, from_tensor, to_tensor

AVAILABLE = (1, 30, "")
_REQUESTS = {PREDICT: wire.PredictRequest, METADATA: wire.GetModelMetadataRequest, STATUS: wire.GetModelStatusRequest}


class FakeServer:
    """Answers from the start of its `with` block to the end. A test reads and changes its attributes while it runs.

    Attributes:
        predict: called with the signature's name and the inputs as arrays; gives the outputs as arrays.
        top_k: columns of `item_ids` in the metadata.
        states: (version, state number, error) for GetModelStatus.
        failures: (status code, details); a call takes the first one away and fails with it, in place of an answer.
        delay: seconds that a call waits before it answers.
        seen: a record of each call: path, request, metadata (dict).
    """

    def __init__(self, predict=None, top_k=3, address="127.0.0.1:0", credentials=None):
        self.predict, self.top_k, self.states = predict or ToyModel(top_k=top_k), top_k, [AVAILABLE]
        self.failures, self.delay, self.seen = [], 0, []
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers([self])
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(None).wait()

    def service(self, details):
        """gRPC asks here for the handler of a method."""
        path = details.method
        if path not in _REQUESTS:
            return None
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._answer(path, request, context),
            request_deserializer=_REQUESTS[path].FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _answer(self, path, request, context):
        metadata = {key: value for key, value in context.invocation_metadata()}
        self.seen.append(SimpleNamespace(path=path, request=request, metadata=metadata))
        time.sleep(self.delay)
        if self.failures:
            context.abort(*self.failures.pop(0))
        return {PREDICT: self._predict, METADATA: self._metadata, STATUS: self._status}[path](request)

    def _predict(self, request):
        inputs = {name: from_tensor(tensor) for name, tensor in request.inputs.items()}
        outputs = self.predict(request.model_spec.signature_name, inputs)
        return wire.PredictResponse(outputs={name: to_tensor(values) for name, values in outputs.items()})

    def _status(self, request):
        states = [
            wire.ModelVersionStatus(version=version, state=state, status=wire.Status(error_message=error))
            for version, state, error in self.states
        ]
        return wire.GetModelStatusResponse(model_version_status=states)

    def _metadata(self, request):
        sizes = {"history": (-1, -1), "item_ids": (-1, self.top_k)}
        infos = {
            name: wire.TensorInfo(dtype=STRING, tensor_shape=wire.TensorShape(dim=[wire.TensorShape.Dim(size=size) for size in shape]))
            for name, shape in sizes.items()
        }
        recommend = wire.SignatureDef(inputs={"history": infos["history"]}, outputs={"item_ids": infos["item_ids"]})
        response = wire.GetModelMetadataResponse()
        response.metadata["signature_def"].value = wire.SignatureDefMap(signature_def={"recommend": recommend}).SerializeToString()
        return response


class ToyModel:
    """The signatures of an export over the items i0, i1, ... by rules that a test can do in its head.

    The items are ranked by number. Item n scores -n, and 100 - n under the fallback. A history's intent is the number of its last known
    item, its embedding (that number, number of known items).
    """

    def __init__(self, items=8, top_k=3):
        self.ids, self.top_k = [f"i{number}".encode() for number in range(items)], top_k

    def __call__(self, signature, inputs):
        return getattr(self, signature)(**inputs)

    def recommend(self, history):
        return self._best(history, k=[self.top_k] * len(history), exclude=history)

    def recommend_with_history(self, history):
        return self._best(history, k=[self.top_k] * len(history), exclude=[[]] * len(history))

    def recommend_k(self, history, k, exclude, allow):
        return self._best(history, k, [[*seen, *more] for seen, more in zip(history, exclude, strict=True)], allow)

    def score(self, history, candidates):
        fallback = self._fallback(history)
        scores = [[self._score(raw, row) for raw in ids] for ids, row in zip(candidates, fallback, strict=True)]
        return {"scores": np.array(scores, np.float32), "fallback": fallback}

    def encode(self, history):
        embedding = [(max(self._known(row)[-1:], default=-1), len(self._known(row))) for row in history]
        return {"embedding": np.array(embedding, np.float32), "fallback": self._fallback(history)}

    def intents(self, history):
        last = self._intent(history)
        probabilities = np.tile(np.array([0.75, 0.25], np.float32), (len(history), 1))
        return {"intents": np.stack([last, last + 1], axis=1), "probabilities": probabilities, "fallback": self._fallback(history)}

    def similar_items(self, item):
        rows = item[:, None]
        return {name: self.recommend(rows)[name] for name in ("item_ids", "scores", "fallback")}

    def intent_items(self, intent):
        return self.similar_items(np.array([f"i{number}".encode() for number in intent], object))

    def _best(self, history, k, exclude, allow=None):
        fallback = self._fallback(history)
        ids, scores = np.full((len(history), self.top_k), b"", object), np.full((len(history), self.top_k), -np.inf, np.float32)
        for row, most in enumerate(k):
            allowed = set(self.ids) if allow is None or not any(allow[row]) else set(allow[row])
            best = [raw for raw in self.ids if raw in allowed - set(exclude[row])][: min(most, self.top_k)]
            ids[row, : len(best)] = best
            scores[row, : len(best)] = [self._score(raw, fallback[row]) for raw in best]
        return {"item_ids": ids, "scores": scores, "intent": self._intent(history), "fallback": fallback}

    def _score(self, raw, fallback):
        return (100 if fallback else 0) - self.ids.index(raw) if raw in self.ids else -np.inf

    def _known(self, row):
        return [self.ids.index(raw) for raw in row if raw in self.ids]

    def _fallback(self, history):
        return np.array([not self._known(row) for row in history], bool)

    def _intent(self, history):
        return np.array([max(self._known(row)[-1:], default=-1) for row in history], np.int32)
