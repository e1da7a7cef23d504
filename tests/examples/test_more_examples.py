"""Examples 03 to 07: what their data and networks promise."""

import importlib
from types import ModuleType

import pytest
import torch
from gallery import flip_labels


@pytest.fixture(scope="module")
def points() -> ModuleType:
    return importlib.import_module("07_points")


def test_flipped_labels_are_as_many_as_asked_for_and_always_wrong() -> None:
    labels = torch.arange(5).repeat(2000)
    flipped = flip_labels(labels, 5, seed=0, noise=0.2)
    wrong = flipped != labels
    assert 0.18 < wrong.float().mean() < 0.22
    assert flipped.unique().tolist() == [0, 1, 2, 3, 4]
    assert ((flipped - labels)[wrong] % 5).bincount(minlength=5)[1:].min() > 400


def test_labels_without_noise_stay() -> None:
    labels = torch.arange(3).repeat(10)
    assert torch.equal(flip_labels(labels, 3, seed=0, noise=0.0), labels)


def test_clouds_have_places_and_ink_between_minus_one_and_one(points: ModuleType) -> None:
    clouds = points.clouds()
    assert len(clouds) == 1797
    assert all(cloud.ndim == 2 and cloud.shape[1] == 3 and 8 <= len(cloud) <= 64 for cloud in clouds)
    assert max(cloud.abs().max().item() for cloud in clouds) == 1.0


def test_a_point_net_sees_neither_order_nor_padding(points: ModuleType) -> None:
    torch.manual_seed(0)
    batch = points.collate([(cloud, 0) for cloud in points.clouds()[:4]])
    network = points.PointNet(width=16)
    logits = network(batch["points"], batch["num_points"])
    other = batch["points"].clone()
    for row, number in enumerate(batch["num_points"].tolist()):
        other[row, :number] = other[row, :number].flip(0)
        other[row, number:] = 7.0
    torch.testing.assert_close(network(other, batch["num_points"]), logits)


def test_a_survey_has_categories_that_fit_its_embeddings() -> None:
    table = importlib.import_module("03_table")
    survey = table.Survey(seed=0, noise=0.0)
    assert len(survey) == 6366
    assert survey.categories.amin(dim=0).tolist() == [0, 0, 0]
    assert survey.categories.amax(dim=0).tolist() == [count - 1 for count in table.CATEGORIES.values()]
    torch.testing.assert_close(survey.numbers.mean(dim=0), torch.zeros(5), atol=1e-5, rtol=0)


def test_windows_of_some_people_do_not_overlap() -> None:
    exercises = importlib.import_module("05_exercises")
    series, labels = exercises.windows(range(1, 2))
    assert series.shape[1:] == (6, exercises.WINDOW)
    assert (
        len(series)
        == len(labels)
        == sum(
            len(recording) // exercises.WINDOW
            for recording, person in zip(exercises.load_watch()["X"], exercises.load_watch()["subject"], strict=True)
            if person == 1
        )
    )
    assert labels.unique().tolist() == list(range(exercises.EXERCISES))


def test_crops_are_parts_of_the_photograph_with_unit_contrast() -> None:
    textures = importlib.import_module("06_textures")
    photograph = torch.rand(3 * textures.SIZE + 5, 2 * textures.SIZE)
    crops = textures.crops(photograph)
    assert crops.shape == (6, 1, textures.SIZE, textures.SIZE)
    torch.testing.assert_close(crops.mean(dim=(2, 3)), torch.zeros(6, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(crops.std(dim=(2, 3)), torch.ones(6, 1))
    third = photograph[textures.SIZE : 2 * textures.SIZE, : textures.SIZE]
    torch.testing.assert_close(crops[2, 0], (third - third.mean()) / third.std())


def test_tweets_are_balanced_and_tokens_are_padded_to_one_length() -> None:
    tweets = importlib.import_module("04_tweets")
    texts, labels = tweets.tweets()
    assert labels.bincount().unique().numel() == 1
    assert not any("http" in text or "@" in text.split() for text in texts[:200])
    tokenizer = tweets.word_pieces(texts[:300], 500)
    assert len(tokenizer) == 500
    ids = tokenizer(["thanks for nothing"])["input_ids"][0]
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-1] == tokenizer.sep_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ##", "") == "thanks for nothing"
