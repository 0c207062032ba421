"""The sentences that synthesised speakers say: many, varied and repeatable."""

import re

import numpy as np

from gim_bench.datasets.speech.sentences import TEMPLATES, WORDS, sentences


def some(count=500, *, seed=0):
    return sentences(count, draw=np.random.default_rng(seed))


def test_no_two_sentences_are_the_same():
    assert len(set(some())) == 500


def test_the_same_generator_gives_the_same_sentences():
    assert some(seed=3) == some(seed=3)
    assert some(seed=3) != some(seed=4)


def test_fewer_sentences_are_the_first_of_more():
    assert some(10) == some(100)[:10]


def test_sentences_have_eight_to_twelve_words():
    lengths = [len(sentence.split()) for sentence in some()]
    assert min(lengths) >= 8
    assert max(lengths) <= 12
    assert 9.5 < np.mean(lengths) < 11


def test_sentences_are_plain_text_with_a_capital_and_an_end():
    pattern = re.compile(r"[A-Z][a-z]*([ ,'][ a-z][a-z]*)*[.?]")
    assert [sentence for sentence in some() if not pattern.fullmatch(sentence)] == []


def test_every_slot_of_a_template_has_words():
    slots = {slot for template in TEMPLATES for slot in re.findall(r"{(.*?)}", template)}
    plurals = {f"{slot}s" for slot in WORDS}
    assert slots <= WORDS.keys() | plurals


def test_no_word_stands_twice_in_its_list():
    doubled = {
        slot: words for slot, text in WORDS.items() if len(words := text.split()) != len(set(words))
    }
    assert doubled == {}


def test_most_words_occur_in_a_few_hundred_sentences():
    heard = set(re.findall(r"[a-z]+", " ".join(some()).lower()))
    known = {word for text in WORDS.values() for word in text.split()}
    assert len(known & heard) > 0.9 * len(known)
