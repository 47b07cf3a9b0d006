"""The IM-like hidden layer, and the files of vectors that go with it."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cbir


def toy(n=120, seed=0):
    """Three classes that no line parts, each in two opposite corners of a pair of dimensions."""
    rng = np.random.default_rng(seed)
    target = np.arange(n) % 3
    codes = rng.normal(0, 0.1, (n, 8))
    codes[np.arange(n), target] += rng.choice([-2, 2], n)
    return codes.astype(np.float32), np.array(["cat", "dog", "fox"])[target]


FAST = dict(width=16, epochs=25, batch_size=16, lr=1e-2)


def weights(encoder):
    return torch.cat([p.detach().ravel() for p in encoder.parameters()])


# ---- the hidden layer -----------------------------------------------------------------------


def test_it_learns_what_no_line_can():
    encoder, accuracy = cbir.train_hidden_layer(*toy(), **FAST)
    assert accuracy > 0.98
    codes, labels = toy(seed=1)
    hits = cbir.search(cbir.hidden_codes(encoder, toy()[0]), cbir.hidden_codes(encoder, codes), k=5)
    assert cbir.evaluation.share_in_top_k(labels, toy()[1], hits.indices).mean() > 0.98


def test_accuracy_without_training_is_chance():
    _, accuracy = cbir.train_hidden_layer(*toy(600), **FAST | {"epochs": 0})
    assert accuracy < 0.7


def test_it_is_seeded():
    (a, _), (b, _), (c, _) = (
        cbir.train_hidden_layer(*toy(), **FAST | {"epochs": 2}, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(weights(a), weights(b)) and not torch.equal(weights(a), weights(c))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    cbir.train_hidden_layer(*toy(), **FAST | {"epochs": 1})
    assert torch.equal(torch.rand(3), expected)


def test_rows_of_nan_are_ignored():
    codes, labels = toy()
    gaps = [0, 5, 60, 120]
    with_gaps = np.insert(codes, gaps, np.nan, axis=0), np.insert(labels, gaps, "dog")
    (a, accuracy), (b, with_gaps_accuracy) = (
        cbir.train_hidden_layer(*data, **FAST | {"epochs": 3}) for data in (toy(), with_gaps)
    )
    assert torch.equal(weights(a), weights(b)) and accuracy == with_gaps_accuracy


def test_the_default_width_is_half():
    encoder, _ = cbir.train_hidden_layer(*toy(), epochs=1)
    assert cbir.hidden_codes(encoder, toy()[0]).shape == (120, 4)


@pytest.mark.parametrize("labels", [["cat"] * 12, [""] * 12])
def test_one_class_is_too_few(labels):
    with pytest.raises(ValueError, match="fewer than two classes"):
        cbir.train_hidden_layer(toy(12)[0], labels)


@pytest.mark.parametrize("readable", [0, 1])
def test_classes_without_readable_images_do_not_count(readable):
    codes, labels = toy(12)
    codes[labels != "cat" if readable else slice(None)] = np.nan
    with pytest.raises(ValueError, match="fewer than two classes"):
        cbir.train_hidden_layer(codes, labels, **FAST)


def test_of_a_large_database_a_sample_is_enough():
    codes, labels = toy(400)
    encoder, accuracy = cbir.train_hidden_layer(codes, labels, **FAST, most=100)
    full, _ = cbir.train_hidden_layer(codes, labels, **FAST, most=400)
    assert accuracy > 0.9 and not torch.equal(encoder[0].weight, full[0].weight)


@pytest.mark.parametrize("n", [1, 5, 4097])
def test_hidden_codes(n, tmp_path):
    """(N, width), not negative, row by row; a row of NaN stays one and touches no other."""
    encoder, _ = cbir.train_hidden_layer(*toy(), **FAST | {"epochs": 1})
    codes = toy(n)[0]
    weight, bias = (parameter.detach().numpy() for parameter in encoder.parameters())
    expected = np.maximum(0, codes @ weight.T + bias)
    codes[n // 2] = np.nan
    hidden = cbir.hidden_codes(encoder, codes)
    assert hidden.shape == (n, 16) and hidden.dtype == np.float32
    mapped = cbir.hidden_codes(encoder, codes, tmp_path / "codes.npy")
    assert isinstance(mapped, np.memmap) and mapped.tobytes() == hidden.tobytes()
    others = np.arange(n) != n // 2
    np.testing.assert_allclose(hidden[others], expected[others], rtol=1e-4, atol=1e-5)
    assert np.isnan(hidden[n // 2]).all() and (hidden[others] >= 0).all()


# ---- fvecs ----------------------------------------------------------------------------------


def write_fvecs(path, vectors):
    path.write_bytes(b"".join(struct.pack(f"<i{len(v)}f", len(v), *v) for v in vectors))
    return path


@pytest.mark.parametrize("n, d", [(1, 1), (3, 5), (100, 2048)])
def test_vectors_round_trip(tmp_path, n, d):
    vectors = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    read = cbir.read_fvecs(write_fvecs(tmp_path / "base.fvecs", vectors), rows=n)
    assert read.dtype == np.float32 and isinstance(read, np.memmap)
    np.testing.assert_array_equal(read, vectors)


@pytest.mark.parametrize("cut", [1, 3, 4, 20, 23])
def test_vectors_cut_short(tmp_path, cut):
    path = write_fvecs(tmp_path / "base.fvecs", np.ones((3, 5)))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match="base.fvecs is cut short"):
        cbir.read_fvecs(path)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "holds no vector"),
        (b"\1\0", "holds no vector"),
        (struct.pack("<i", 3), "cut short"),
        (struct.pack("<if", 0, 1), "dimension of 0"),
        (struct.pack("<if", -1, 1), "dimension of -1"),
        (struct.pack("<if", 2**31 - 1, 1), "dimension of 2147483647"),
        (struct.pack(">if", 1, 1), "dimension of 16777216"),
    ],
)
def test_what_is_no_fvecs_file(tmp_path, data, message):
    (tmp_path / "base.fvecs").write_bytes(data)
    with pytest.raises(ValueError, match=f"base.fvecs .*{message}"):
        cbir.read_fvecs(tmp_path / "base.fvecs")


def test_vectors_of_several_dimensions(tmp_path):
    path = write_fvecs(tmp_path / "base.fvecs", [[1] * 5, [1] * 3, [1] * 7])
    with pytest.raises(ValueError, match="several dimensions"):
        cbir.read_fvecs(path)


def test_another_number_of_vectors(tmp_path):
    path = write_fvecs(tmp_path / "base.fvecs", np.ones((3, 5)))
    with pytest.raises(ValueError, match="holds 3 vectors, 4 were expected"):
        cbir.read_fvecs(path, rows=4)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        cbir.read_fvecs(tmp_path / "base.fvecs")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.integers(0, 9), st.binary(max_size=120)).map(
            lambda t: struct.pack("<i", t[0]) + t[1]
        ),
    )
)
def test_any_bytes_are_vectors_or_a_value_error(tmp_path, data):
    (tmp_path / "any.fvecs").write_bytes(data)
    try:
        read = cbir.read_fvecs(tmp_path / "any.fvecs")
    except ValueError:
        return
    assert 4 * read.shape[0] * (read.shape[1] + 1) == len(data)
    assert b"".join(struct.pack("<i", read.shape[1]) + row.tobytes() for row in read) == data


# ---- IMAGENET1M -----------------------------------------------------------------------------


def image_set(*files):
    return cbir.ImageSet(None, list(files), [f.split("/")[0] for f in files])


@pytest.fixture
def published(tmp_path):
    """(vectors, list) of four images; the vector of image j is [j, j, j]."""
    (tmp_path / "list.txt").write_text("n1/a.jpg\nn1/b.jpg\nn2/ü c.jpg\nd.jpg\n", encoding="utf-8")
    return write_fvecs(tmp_path / "base.fvecs", [[j] * 3 for j in range(4)]), tmp_path / "list.txt"


def test_rows_follow_the_images(published):
    vectors = cbir.imagenet1m_descriptors(
        *published, image_set("n2/ü c.jpg", "d.jpg", "n1/a.jpg", "n1/a.jpg")
    )
    assert vectors[:, 0].tolist() == [2, 3, 0, 0]
    assert vectors.shape == (4, 3)
    assert vectors.dtype == np.float32


def test_names_by_their_last_part(published):
    vectors = cbir.imagenet1m_descriptors(*published, image_set("b.jpg", "train/n9/d.jpg"))
    assert vectors[:, 0].tolist() == [1, 3]


@pytest.mark.parametrize("no_list", [None, "", "nowhere.txt"])
def test_without_a_list_they_cannot_be_used(published, tmp_path, no_list):
    with pytest.raises(ValueError, match="no image names"):
        cbir.imagenet1m_descriptors(
            published[0], no_list and tmp_path / no_list, image_set("d.jpg")
        )


def test_a_list_of_another_length(published):
    published[1].write_text("a.jpg\nb.jpg\n")
    with pytest.raises(ValueError, match="holds 4 vectors, 2 were expected"):
        cbir.imagenet1m_descriptors(*published, image_set("a.jpg"))


def test_an_image_that_is_not_in_the_list(published):
    with pytest.raises(ValueError, match="1 of 2 images are not in .*, first n1/z.jpg"):
        cbir.imagenet1m_descriptors(*published, image_set("d.jpg", "n1/z.jpg"))


def test_a_full_name_goes_before_a_last_part(published):
    published[1].write_text("a.jpg\nn1/a.jpg\nn2/a.jpg\nb.jpg\n")
    images = image_set("a.jpg", "n1/a.jpg", "n2/a.jpg")
    vectors = cbir.imagenet1m_descriptors(*published, images)
    assert vectors[:, 0].tolist() == [0, 1, 2]


def test_a_last_part_that_fits_several_is_refused(published):
    """Another image's vector would be taken, and nobody would know."""
    published[1].write_text("n1/a.jpg\nn2/a.jpg\nn3/b.jpg\nn4/c.jpg\n")
    with pytest.raises(ValueError, match="a.jpg"):
        cbir.imagenet1m_descriptors(*published, image_set("n7/a.jpg"))
