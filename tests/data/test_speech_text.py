"""English text as symbols: what is read out how, against readings written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.data.speech_text import INDEX, SYMBOLS, cleaned, decoded, encoded, read_dictionary
from jaxgen.data.spoken_numbers import cardinal, ordinal
from jaxgen.errors import UserError


def test_the_symbols_are_nvidias():
    assert len(SYMBOLS) == len(INDEX) == 148
    assert "".join(SYMBOLS[:64]) == "_-!'(),.:;? ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert SYMBOLS[64:69] == ("@AA", "@AA0", "@AA1", "@AA2", "@AE")
    assert SYMBOLS[-1] == "@ZH" and INDEX["@HH"] == 64 + 9 * 4 + 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Printing, in the only sense", "printing, in the only sense"),
        ("  white \t\n space ", "white space"),
        ("Dr. Jones, Mrs. Smith & Co.", "doctor jones, misess smith and company"),
        ("cats, dogs, etc.", "cats, dogs, et cetera"),
        ("coast. most. first.", "coast. most. first."),
        ("0 7 13 20 21 100 345", "zero seven thirteen twenty twenty-one one hundred three hundred forty-five"),
        ("1000", "one thousand"),
        ("1,234 sheep", "one thousand, two hundred thirty-four sheep"),
        ("12345", "twelve thousand, three hundred forty-five"),
        ("in 1984, 1905, 1900, 2000, 2007 and 2024", "in nineteen eighty-four, nineteen oh five, nineteen hundred, two "
         "thousand, two thousand seven and twenty twenty-four"),
        ("the 1980s, the 90s and 1900s", "the nineteen eighties, the nineties and nineteen hundreds"),
        ("the 2000s", "the two thousands"),
        ("1st 2nd 3rd 11th 22nd 30th", "first second third eleventh twenty-second thirtieth"),
        ("$1 $2.50 $0.01 $0 $3.5", "one dollar two dollars, fifty cents one cent zero dollars three dollars, fifty "
         "cents"),
        ("£1.01, €20 and $2.5 million", "one pound, one penny, twenty euros and two point five million dollars"),
        ("£2.02", "two pounds, two pence"),
        ("$5m, $2.5bn and €1k", "five million dollars, two point five billion dollars and one thousand euros"),
        ("$5each", "five dollars each"),
        ("$1.005", "one point zero zero five dollars"),
        ("3.14 0.05", "three point one four zero point zero five"),
        ("1,000,000.5", "one million point five"),
        ("Jan. 5, 1981", "january fifth, nineteen eighty-one"),
        ("May 3rd; 4 July", "may third; fourth july"),
        ("2021-02-28", "february twenty-eighth, twenty twenty-one"),
        ("10:30, 9:05 and 12:00", "ten thirty, nine oh five and twelve o'clock"),
        ("at 7:00 pm", "at seven pm"),
        ("at 10:30pm", "at ten thirty pm"),
        ("10,000km, 5,000m and 1,000s", "ten thousand km, five thousand m and one thousand s"),
        ("the 1,234th and 100,000th", "the one thousand, two hundred thirty-fourth and one hundred thousandth"),
        ("1,234.5km of 2.5kg", "one thousand, two hundred thirty-four point five km of two point five kg"),
        ("-5 to 10-20", "minus five to ten-twenty"),
        ("50% of 1/2", "fifty percent of one slash two"),
        ("v2.0 of a usb3.1 port", "v two point zero of a usb three point one port"),
        ("I can march 5 miles", "i can march five miles"),
        ("May 10 people come, all 5 may go", "may ten people come, all five may go"),
        ("on May 5 people came; the 3 March 1999 trains", "on may fifth people came; the third march nineteen "
         "ninety-nine trains"),
        ("mp3 4x4", "mp three four x four"),
        ("\u00bd cup, 20 \u00b0 C", "one half cup, twenty degrees c"),
        ("na\u00efve Caf\u00e9 \u2014 \u201cquoted\u201d, \u00c5ngstr\u00f6m\u2019s stra\u00dfe\u2026",
         "naive cafe - quoted, angstrom's strasse..."),
        ("\uff21\uff22 \ufb01ne \u0663", "ab fine three"),
        ("[sic] *starred* under_score", "(sic) starred under score"),
    ],
)  # fmt: skip
def test_what_is_read_out(text: str, said: str):
    assert cleaned(text) == said
    assert decoded(encoded(text)) == said
    assert cleaned(said) == said


def test_numbers_of_any_length():
    assert cardinal(10**18 + 1) == "one quintillion, one"
    assert ordinal(1_000_012) == "one million, twelfth"
    assert cleaned("9" * 30) == " ".join(["nine"] * 30)
    # Python refuses to read an integer of so many digits.
    for form in ("{}", "{}th", "${}", "{}.5", "{}s", "{}:30"):
        assert "nine nine nine" in cleaned(form.format("9" * 6000))


def test_counting_is_without_gaps():
    """Each cardinal is another, and counting by words gives the number back."""
    small = {cardinal(n): n for n in range(20)} | {cardinal(n): n for n in range(20, 100, 10)}
    for n in range(0, 20_000, 7):
        total = group = 0
        for word in cardinal(n).replace(",", "").replace("-", " ").split():
            if word == "thousand":
                total, group = total + 1000 * group, 0
            elif word == "hundred":
                group *= 100
            else:
                group += small[word]
        assert total + group == n


def test_phonemes_stand_in_braces():
    text = "Turn left on {HH AW1 S S T AH0 N} street, {n ow1}!"
    assert decoded(encoded(text)) == "turn left on {HH AW1 S S T AH0 N} street, {N OW1}!"
    assert [SYMBOLS[i] for i in encoded("{HH AY1}")] == ["@HH", "@AY1"]


def test_a_dictionary_gives_phonemes(tmp_path):
    file = tmp_path / "words.dict"
    file.write_text(";;; a comment\nhello  HH AH0 L OW1 # greeting\nHELLO(2)  HH EH0 L OW1\ndon't D OW1 N T\n\n")
    words = read_dictionary(file)
    assert words == {"hello": ("HH", "AH0", "L", "OW1"), "don't": ("D", "OW1", "N", "T")}
    assert decoded(encoded("Hello, I don't know.", words)) == "{HH AH0 L OW1}, i {D OW1 N T} know."
    for wrong, said in (
        ("word HH QQ\n", "has 'QQ' in line 1"),
        ("word\n", "has 'nothing' in line 1"),
        ("\n", "no words"),
    ):
        bad = tmp_path / f"{len(wrong)}.dict"
        bad.write_text(wrong)
        with pytest.raises(UserError, match=said):
            read_dictionary(bad)


def test_a_trailing_space_changes_nothing():
    for text in ("Hello there.", "say {HH AY1}"):
        for odd in (f"{text} ", f" {text}", f"\n{text}\t \n"):
            assert encoded(odd).tolist() == encoded(text).tolist()


def test_long_text_is_read_whole():
    text = ("word " * 400)[:2000]
    assert len(encoded(text)) == 1999


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the text '' has nothing to be spoken"),
        (" \n ", "has nothing to be spoken"),
        ("... !", "has nothing to be spoken"),
        ("\u4f60\u597d", "has '\u4f60', '\u597d', which no symbol stands for"),
        ("smile \U0001f600", "has '\U0001f600', which no symbol stands for"),
        ("a { b", "has a '{' without its other"),
        ("a } b", "has a '}' without its other"),
        ("{HH {AY1}}", "without its other"),
        ("{HELLO}", "has 'HELLO' in braces, no phoneme of ARPAbet"),
        ("nul \0", "which no symbol stands for"),
        ("\u4f60" * 2000, "which no symbol stands for"),
    ],
)
def test_what_cannot_be_spoken_is_one_line(text: str, said: str):
    with pytest.raises(UserError) as error:
        encoded(text)
    assert said in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300


@given(st.one_of(st.text(max_size=60), st.text("0123456789.,:$£-%sthdnpm jan may{}()/²½", max_size=40)))
def test_any_text_is_read_out_or_one_line(text: str):
    try:
        symbols = encoded(text)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        return
    assert len(symbols) and symbols.min() > 0 and symbols.max() < 148
    # What is read out is written as it is said.
    assert encoded(decoded(symbols)).tolist() == symbols.tolist()


def test_cmus_own_file_is_in_latin_1(tmp_path):
    """Regression: it was refused for one word, whose letters are not UTF-8."""
    (tmp_path / "cmudict-0.7b").write_bytes(b";;; a comment\nCAT  K AE1 T\nD\xc9J\xc0  D EY2 ZH AA1\n")
    found = read_dictionary(tmp_path / "cmudict-0.7b")
    assert found == {"cat": ("K", "AE1", "T"), "d\xe9j\xe0": ("D", "EY2", "ZH", "AA1")}
