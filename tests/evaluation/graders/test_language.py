"""Languages on the first article of the Universal Declaration of Human Rights; sentences."""

import pytest

from rlhf_jax.evaluation.graders.language import language_of
from rlhf_jax.evaluation.graders.sentences import sentences

TEXTS = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with "
          "reason and conscience and should act towards one another in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft "
          "und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués "
          "de raison et de conscience et doivent agir les uns envers les autres.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como "
          "están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de "
          "razão e de consciência, devem agir uns para com os outros em espírito de fraternidade.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati "
          "di ragione e di coscienza e devono agire gli uni verso gli altri.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on "
          "annettu järki ja omatunto, ja heidän on toimittava toisiaan kohtaan.",
    "sw": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. Wote wamejaliwa akili na dhamiri, "
          "hivyo yapasa watendeane kindugu.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены "
          "разумом и совестью и должны поступать в отношении друг друга в духе братства.",
    "bg": "Всички хора се раждат свободни и равни по достойнство и права. Те са надарени с разум "
          "и съвест и следва да се отнасят помежду си в дух на братство.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "mr": "सर्व मानवी व्यक्ती जन्मतः स्वतंत्र आहेत व त्यांना समान प्रतिष्ठा व समान अधिकार आहेत.",
    "ne": "सबै व्यक्तिहरू जन्मजात स्वतन्त्र हुन् ती सबैको समान अधिकार र महत्व छ।",
    "ar": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق، وقد وهبوا عقلاً وضميراً.",
    "fa": "تمام افراد بشر آزاد به دنیا می آیند و از لحاظ حیثیت و حقوق با هم برابرند.",
    "ur": "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔",
    "kn": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ.",
    "te": "మనుష్యులందరు స్వతంత్రులుగా జన్మించిరి.",
    "ta": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "gu": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર છે.",
    "pa": "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ ਦੇ ਪੱਖੋਂ ਆਜ਼ਾਦ ਹੈ.",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে জন্মগ্রহণ করে।",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระ", "ko": "모든 인간은 태어날 때부터 자유롭다.",
    "ja": "すべての人間は、生まれながらにして自由である。",
    "zh": "人人生而自由,在尊严和权利上一律平等。",
}  # fmt: skip


@pytest.mark.parametrize("language", TEXTS)
def test_a_text_is_of_its_language(language):
    assert language_of(TEXTS[language]) == language
    assert language_of(TEXTS[language].upper()) == language
    assert language_of(f"1. OK! {TEXTS[language]} (2026)") == language


@pytest.mark.parametrize(
    ("text", "language"),
    [("Çalışıyorsun", "tr"), ("Größe", "de"), ("Объём", "ru"), ("Їжак", "uk"), ("पाळणाघर", "mr")],
)
def test_letters_of_one_language_tell_it(text, language):
    assert language_of(text) == language


@pytest.mark.parametrize("text", ["", "1 + 1 = 2 ...", "xyzzy plugh", "⠓⠑"])
def test_a_text_without_a_known_word_is_of_none(text):
    assert language_of(text) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        (" no end ", ["no end"]),
        ("One. Two!  Three?\nFour", ["One.", "Two!", "Three?", "Four"]),
        ('He said "Go." Then "Why?" he left.', ['He said "Go."', 'Then "Why?"', "he left."]),
        ("Dr. J. Smith paid 3.50 dollars, e.g. for tea.", None),
        ("He came at 5 p.m. It rained.", ["He came at 5 p.m.", "It rained."]),
        ("So it was I. Then he left.", ["So it was I.", "Then he left."]),
        ("Well... maybe not. Hm... Yes", ["Well... maybe not.", "Hm...", "Yes"]),
        ("A line\nand the same", None),
        ("*Bold.* Next", ["*Bold.*", "Next"]),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == ([text] if parts is None else parts)
