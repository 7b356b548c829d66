"""Reports in English and in other languages."""

import pytest

from medclip_jax.evaluate.english import are_english

ENGLISH = [
    ["The lungs are clear."],
    ["no pneumothorax. lungs clear."],
    ["Bibasilar atelectasis", "Cardiomegaly.", "No acute disease."],
    ["NO ACUTE CARDIOPULMONARY ABNORMALITY."],
    ["No pneumothorax.", "Small effusion."],
]
OTHERS = {
    "French": "Pas de pneumothorax. Silhouette cardiaque normale.|Poumons clairs."
    "|Absence d'épanchement pleural.|Infection du lobe inférieur droit. Catheter en place.",
    "German": "Kein Pneumothorax. Kein Infiltrat.|Herz normal groß.|Kleine Verschattung links.",
    "Spanish": "Sin edema ni consolidación.|No hay edema.|Silueta normal. No consolidación.",
    "Portuguese": "Ausência de edema pulmonar.|Área cardíaca normal. Pneumonia no lobo inferior.",
    "Italian": "Non edema.|Non versamento pleurico.|Opacità in sede basale. No edema.",
    "Dutch": "Geen pneumothorax.|Geen infiltraat of edema. Hart is niet vergroot.",
    "Swedish": "Ingen pneumothorax.|Pneumonia kan inte uteslutas.|Normal hjärtstorlek.",
    "Danish": "Ingen pneumothorax. Intet infiltrat.|Normal hjertestørrelse.",
    "Romanian": "Nu are edema.|Cord normal. Infiltrate bazale.",
    "Turkish": "Pneumothorax yok.|Kalp normal. Infiltrate yok.",
}


@pytest.mark.parametrize("texts", ENGLISH)
def test_english_also_where_it_is_telegraphic(texts):
    assert are_english(texts)


@pytest.mark.parametrize("language", OTHERS)
def test_other_languages_are_not_english(language):
    assert not are_english(OTHERS[language].split("|"))


def test_most_texts_decide():
    assert are_english(["Clear lungs.", "The heart.", "Sin edema."])
    assert not are_english(["Clear lungs.", "No edema.", "Sin edema."])
