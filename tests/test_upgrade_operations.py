"""Operations on classifiers: heads and answers, ensembles, weight interpolation, flips of both tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetero.data.imageset import ImageSet
from hetero.models.build import build, preset
from hetero.models.deploy import Deploy
from hetero.models.encoder import embed
from hetero.models.store import Model, define_space
from hetero.retrieval import PerQuery, flips_by_class, mcnemar, negative_flips
from hetero.upgrades.classifier import Head, accuracy, answers
from hetero.upgrades.ensembles import Ensemble, EnsembleEncoder
from hetero.upgrades.interpolation import between, fisher_diagonal, interpolated, recalibrated, soup
from hetero.upgrades.shares import Trial, chosen, fewest_flips
from hetero_devices.errors import DataError, ModelError
from hetero_devices.space import Preprocessing

NETWORK = preset("elastic-xs").model_copy(update={"dim": 8})


def images(classes: tuple[str, ...] = ("a", "b", "c"), count: int = 12, seed: int = 0) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    ids = np.arange(count, dtype=np.int64)
    return ImageSet(pixels, ids % len(classes), ids, np.zeros_like(ids), classes)


def model(seed: int, classes: tuple[str, ...] = ("a", "b", "c")) -> Model:
    torch.manual_seed(seed)
    network, scale = build(NETWORK), Preprocessing(size=16)
    space = define_space(network, scale, 8)
    return Model(Deploy(network, scale).eval(), NETWORK, space, torch.randn(len(classes), 8), classes)


def per_query(values: list[int], labels: list[int]) -> PerQuery:
    ids = np.arange(len(values), dtype=np.int64) + 100
    return PerQuery("accuracy", ids, np.array(labels, np.int64), np.array(values, np.float64))


def test_flips_by_class_worked_by_hand() -> None:
    """Class 3: two right before, one after, one flips each way. Class 7: three right, none right."""
    old = per_query([1, 1, 0, 1, 1, 1], [3, 3, 3, 7, 7, 7])
    new = per_query([1, 0, 1, 0, 0, 0], [3, 3, 3, 7, 7, 7])
    first, second = flips_by_class(old, new)
    assert (first.label, first.queries, first.old_right, first.new_right) == (3, 3, 2, 2)
    assert (first.negative, first.positive, first.p_value) == (1, 1, 1.0)
    assert (second.negative, second.nfr, second.p_value) == (3, 1.0, mcnemar(0, 3))
    assert negative_flips(old, new).tolist() == [101, 103, 104, 105]
    with pytest.raises(DataError, match="no success bit"):
        flips_by_class(old, replace(new, values=new.values / 2))


def test_answers_are_compared_by_name_of_class() -> None:
    """The head's classes stand in another order than the images', and one is in neither's data."""
    head = Head(np.eye(3, dtype=np.float32), ("c", "zebra", "a"))
    pictures = images(count=3)  # a, b, c
    named = answers(head.logits(np.eye(3, dtype=np.float32)[[2, 1, 0]]), head.classes)
    assert named == ["a", "zebra", "c"]
    assert accuracy(named, pictures).values.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="2 answers for 3 images"):
        accuracy(named[:2], pictures)
    with pytest.raises(DataError, match="dimension 3, the embeddings have 4"):
        head.logits(np.zeros((1, 4), np.float32))
    with pytest.raises(ModelError, match="no class head"):
        Head.of(replace(model(0), head=None), "it")


def test_an_ensemble_votes_by_its_mean() -> None:
    members, pictures = [model(0), model(1)], images()
    each = []
    for m in members:
        assert m.head is not None
        each.append(embed(m.encoder, pictures).vectors @ F.normalize(m.head, dim=1).numpy().T)
    np.testing.assert_allclose(Ensemble(members).logits(pictures), np.mean(each, axis=0), atol=1e-6)
    with pytest.raises(ModelError, match="members 0 and 1 name other classes"):
        Ensemble([model(0), model(1, ("a", "b", "x"))])
    with pytest.raises(ModelError, match="at least one"):
        Ensemble([])


def test_an_ensemble_searches_by_the_mean_of_its_members_cosines() -> None:
    members, pictures = [model(0), model(1)], images()
    encoder = EnsembleEncoder([m.encoder for m in members])
    together = embed(encoder, pictures)
    together.check()  # of unit length
    each = [embed(m.encoder, pictures).vectors for m in members]
    mean = np.mean([v @ v.T for v in each], axis=0)
    np.testing.assert_allclose(together.vectors @ together.vectors.T, mean, atol=1e-5)
    assert encoder.space.dim == sum(m.space.dim for m in members)
    assert encoder.space != EnsembleEncoder([m.encoder for m in members[::-1]]).space
    small = replace(members[1].deploy.preprocessing, size=8)
    other = replace(members[1], deploy=Deploy(members[1].deploy.network, small))
    with pytest.raises(ModelError, match="members 0 and 1 take images of another size"):
        EnsembleEncoder([members[0].encoder, other.encoder])


def test_the_fewest_flips_within_the_tolerated_error() -> None:
    trials = [(0.30, 0.08), (0.304, 0.05), (0.32, 0.01)]
    assert fewest_flips(trials, 0.30) == 1
    assert fewest_flips(trials, 0.30, 0.02) == 2
    assert fewest_flips(trials, 0.20) == 0  # none is good enough: the smallest error
    found = chosen([Trial(0.0, *trials[0]), Trial(0.3, *trials[1]), Trial(0.6, *trials[2])])
    assert found.share == 0.3


def test_between_worked_by_hand() -> None:
    old, new = torch.tensor([2.0, 2, 2]), torch.tensor([6.0, 6, 6])
    assert between(old, new, 0.25).tolist() == [5, 5, 5]
    fisher = torch.tensor([0.0, 1, 3])
    expected = [6, 4, (0.5 * 3 * 2 + 0.5 * 6) / (0.5 * 3 + 0.5)]
    assert between(old, new, 0.5, fisher).tolist() == pytest.approx(expected)
    assert between(old, new, 1.0, torch.zeros(3)).tolist() == [2, 2, 2]


def test_the_ends_of_an_interpolation_are_its_models() -> None:
    old, new, pictures = model(0), model(1), images()
    for share, end in ((1.0, old), (0.0, new)):
        middle = interpolated(old, [new], share)
        np.testing.assert_allclose(
            embed(middle.encoder, pictures).vectors, embed(end.encoder, pictures).vectors, atol=1e-6
        )
        assert middle.head is not None
        assert end.head is not None
        torch.testing.assert_close(middle.head, end.head)
    half = interpolated(old, [new], 0.5)
    assert half.space not in (old.space, new.space)
    names = dict(old.deploy.network.named_parameters())
    for name, value in half.deploy.network.named_parameters():
        torch.testing.assert_close(
            value, (names[name] + dict(new.deploy.network.named_parameters())[name]) / 2
        )


def test_new_classes_keep_their_prototypes() -> None:
    old, new = model(0, ("b", "a")), model(1)
    head = interpolated(old, [new], 0.5).head
    assert head is not None
    assert old.head is not None
    assert new.head is not None
    torch.testing.assert_close(head[0], (old.head[1] + new.head[0]) / 2)  # a
    torch.testing.assert_close(head[2], new.head[2])  # c, which the old model does not know


def test_a_soup_is_the_mean_of_its_models() -> None:
    states: list[dict[str, Tensor]] = [
        {"w": torch.tensor([v]), "n": torch.tensor(7)} for v in (1.0, 2.0, 6.0)
    ]
    assert soup(states)["w"].item() == 3
    assert soup(states)["n"].item() == 7
    both = interpolated(model(0), [model(1), model(2)], 0.0)
    expected = soup([model(i).deploy.network.state_dict() for i in (1, 2)])
    for name, value in both.deploy.network.named_parameters():
        torch.testing.assert_close(value, expected[name])


def test_interpolation_refuses_what_it_cannot_mean() -> None:
    other = replace(model(1), config=NETWORK.model_copy(update={"dim": 16}))
    with pytest.raises(ModelError, match="inside one architecture"):
        interpolated(model(0), [other], 0.5)
    with pytest.raises(ModelError, match=r"share of 1\.5"):
        interpolated(model(0), [model(1)], 1.5)
    with pytest.raises(ModelError, match="name other classes"):
        interpolated(model(0), [model(1), model(2, ("a", "b", "x"))], 0.5)


def test_recalibration_measures_batch_normalisation_on_the_images() -> None:
    pictures = images(count=32)
    before, after = model(0), recalibrated(model(0), pictures, batch=16)

    def norms(m: Model) -> list[nn.BatchNorm2d]:
        return [each for each in m.deploy.modules() if isinstance(each, nn.BatchNorm2d)]

    first = norms(after)[0]
    seen: list[Tensor] = []
    hook = norms(before)[0].register_forward_hook(lambda m, i, o: seen.append(i[0].mean((0, 2, 3))))
    for start in (0, 16):
        before.deploy(torch.from_numpy(pictures.images[start : start + 16]))
    hook.remove()
    assert first.running_mean is not None
    torch.testing.assert_close(first.running_mean, torch.stack(seen).mean(0), rtol=1e-4, atol=1e-5)
    assert not after.deploy.training


def test_fisher_information_is_the_mean_squared_gradient() -> None:
    classifier, pictures = model(0), images(count=3)
    found = fisher_diagonal(classifier, pictures, scale=4.0)
    assert classifier.head is not None
    total = {name: torch.zeros_like(p) for name, p in classifier.deploy.network.named_parameters()}
    for row in range(3):
        logits = (
            4
            * classifier.deploy(torch.from_numpy(pictures.images[row : row + 1]))
            @ F.normalize(classifier.head, dim=1).T
        )
        loss = F.cross_entropy(logits, torch.tensor([row % 3]))
        grads = torch.autograd.grad(loss, list(classifier.deploy.network.parameters()))
        for (_, sum_), grad in zip(total.items(), grads, strict=True):
            sum_ += grad.pow(2)
    flat = torch.cat([t.flatten() for t in total.values()])
    torch.testing.assert_close(
        torch.cat([found[name].flatten() for name in total]), flat / flat.mean(), rtol=1e-3, atol=1e-5
    )
    with pytest.raises(ModelError, match="does not know the class 'x'"):
        fisher_diagonal(classifier, images(("x",), 1))
