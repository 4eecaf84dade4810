"""A SavedModel that takes a fraction of a second to write and to load, whose answers name the version that gave them."""

import tensorflow as tf


def _gate():
    """A queue that the signatures of one loaded version share."""
    return tf.raw_ops.FIFOQueueV2(component_types=[tf.int32], shapes=[[]], shared_name="gate")


class _Toy(tf.Module):
    def __init__(self, tag, ballast):
        super().__init__()
        self.tag = tf.Variable(tag)
        self.ballast = tf.Variable(tf.zeros([ballast]))

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, name="history")], autograph=False)
    def count(self, history):
        """The version, and how many texts of a row are not empty."""
        known = tf.reduce_sum(tf.cast(history != "", tf.int32), axis=1)
        return {"tag": tf.zeros_like(known) + self.tag + tf.cast(self.ballast[0], tf.int32), "known": known}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.string, name="left"),
            tf.TensorSpec([None, None], tf.string, name="right"),
            tf.TensorSpec([None, 2], tf.float32, name="pair"),
        ],
        autograph=False,
    )
    def widths(self, left, right, pair):
        """Outputs as wide as an input, and one that is as wide as none."""
        return {"left": left, "right": tf.strings.length(right), "sum": tf.reduce_sum(pair, axis=1), "both": tf.concat([left, right], 1)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")], autograph=False)
    def scalar(self, x):
        return {"y": x + 1.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="x")], autograph=False)
    def wait(self, x):
        """Answers when somebody opens the gate; each opening lets one batch through."""
        (one,) = tf.raw_ops.QueueDequeueV2(handle=_gate(), component_types=[tf.int32])
        return {"x": x * tf.reshape(one, [])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="x")], autograph=False)
    def open_gate(self, x):
        with tf.control_dependencies([tf.raw_ops.QueueEnqueueV2(handle=_gate(), components=[1])]):
            return {"x": tf.identity(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="x")], autograph=False)
    def fail(self, x):
        with tf.control_dependencies([tf.debugging.assert_less(x, 0, message="x should be negative")]):
            return {"x": tf.identity(x)}


def write_toy(folder, version, ballast=1):
    """Write version `version` of the toy, with `ballast` floats of weights; it appears when it is whole. Returns its folder."""
    toy = _Toy(version, ballast)
    signatures = {name: getattr(toy, name).get_concrete_function() for name in ("count", "widths", "scalar", "wait", "open_gate", "fail")}
    temporary = folder / f".{version}"
    tf.saved_model.save(toy, str(temporary), signatures={"serving_default": signatures["count"], **signatures})
    return temporary.rename(folder / str(version))
