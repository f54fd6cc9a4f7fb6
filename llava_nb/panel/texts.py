"""Every text of the panel, in English and Korean, by name; what is put in stands in braces.

What the model is asked stays English: the models were trained in it, and the embedded one knows
nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import LlavaNbError, plain
from ..prompts import DEFAULT_PROMPT
from .state import BROKE_OFF

LANGUAGES = ("en", "ko")
# English, Korean, question. The first is what LLaVA-1.5 and the embedded model were trained on.
PRESETS = (
    ("Describe", "설명", DEFAULT_PROMPT),
    ("In detail", "자세히", "Describe this picture in detail."),
    ("Caption", "캡션", "Give a short caption."),
    ("Objects", "무엇이 있나", "List the objects in this picture."),
    ("Count", "개수", "How many things are there?"),
    ("Colours", "색", "What colours are in this picture?"),
    (
        "Read the text",
        "글 읽기",
        "What text is in this picture? Write it exactly as it stands there.",
    ),
    ("Unusual", "특이한 점", "What is unusual about this picture?"),
    ("Alt text", "대체 텍스트", "Describe this picture in one sentence for a blind person."),
    ("In Korean", "한국어로", "이 그림을 한국어로 설명해 주세요."),
)
_TEXTS = {
    # The picture.
    "choose": ("Choose, drop or paste a picture", "그림을 고르거나 끌어다 놓거나 붙여 넣기"),
    "upload": ("Upload pictures", "그림 올리기"),
    "camera": ("Take a photo", "사진 찍기"),
    "reading": ("Sending the picture ...", "그림을 보내는 중 ..."),
    "lost": (
        "The picture did not get through to the notebook. Choose it again.",
        "그림이 노트북에 오지 못했습니다. 다시 골라 주세요.",
    ),
    "by_path": ("Path or address", "경로나 주소"),
    "path_hint": ("one a line; Enter opens", "한 줄에 하나씩, Enter로 열기"),
    "open": ("Open", "열기"),
    "picture": ("the picture", "그림"),
    "or_example": ("or try an example", "예시로 해 보기"),
    "padded": ("padded to a square", "정사각형으로 채움"),
    "cropped": ("only the middle square", "가운데 정사각형만"),
    # The conversation.
    "talk": ("Conversation", "대화"),
    "empty": (
        "Answers appear here. Nothing leaves this machine.",
        "답이 여기에 나타납니다. 이 컴퓨터 밖으로 나가는 것은 없습니다.",
    ),
    "question": ("Question", "질문"),
    "question_hint": (
        "Ask about the picture. Enter asks.",
        "그림에 대해 물어보세요. Enter를 누르면 묻습니다.",
    ),
    "ask": ("Ask", "묻기"),
    "ask_all": ("Ask about all {about}", "{about}장 모두 묻기"),
    "stop": ("Stop", "멈춤"),
    "more": ("Continue", "계속"),
    "again": ("Regenerate", "다시 만들기"),
    "copy": ("Copy", "복사"),
    "copied": ("Copied", "복사됨"),
    "copy_by_hand": ("Selected: press Ctrl+C", "선택됨: Ctrl+C를 누르세요"),
    "looking": ("reading the picture, {about} s", "그림을 읽는 중, {about}초"),
    "next": ("comes next", "다음 차례"),
    "figures": (
        "{seconds:.1f} s · {rate:.1f} tokens/s",
        "{seconds:.1f}초 · 초당 토큰 {rate:.1f}개",
    ),
    "limit": ("cut at the limit", "길이 제한에서 끊김"),
    "stopped_short": ("stopped", "멈춤"),
    "drawings_only": (
        "This model knows drawings of coloured shapes only. For photographs take a real one: "
        'load("llava-onevision-0.5b") on a CPU, load() with a GPU (in Colab: Runtime > Change '
        "runtime type > T4).",
        "이 모델은 색깔 있는 도형 그림만 압니다. 사진은 진짜 모델에게 물으세요. CPU에서는 "
        'load("llava-onevision-0.5b"), GPU가 있으면 load()입니다'
        "(Colab: 런타임 > 런타임 유형 변경 > T4).",
    ),
    "more_presets": ("More ...", "더 보기 ..."),
    # Options.
    "clear": ("New conversation", "새 대화"),
    "save": ("Save record", "기록 저장"),
    "resume": ("Bring back the last conversation ({about})", "지난 대화 이어 하기({about})"),
    "options": ("Options", "옵션"),
    "length": ("Longest answer (tokens)", "답의 최대 길이(토큰)"),
    "temperature": ("Temperature", "온도"),
    "top_p": ("Top-p", "Top-p"),
    "compare": ("Compare with", "비교"),
    "nothing": ("nothing", "안 함"),
    "style": ("prompt style {about}", "프롬프트 형식 {about}"),
    "about_options": (
        "A token is about three quarters of a word. With temperature 0 the same question gives the "
        "same answer; above it words are drawn, from the likeliest top-p.",
        "토큰 하나는 영어 단어의 4분의 3쯤입니다. 온도가 0이면 같은 질문에 같은 답이 나오고, "
        "0보다 크면 단어를 무작위로 뽑습니다. top-p는 그럴듯한 단어만 남깁니다.",
    ),
    "details": ("Memory in detail", "메모리 자세히"),
    # The model and its memory.
    "4bit": ("in 4 bits", "4비트"),
    "8bit": ("in 8 bits", "8비트"),
    "None": ("unquantised", "양자화 안 함"),
    "on": ("on {about}", "{about}"),
    "cpu": ("the CPU", "CPU"),
    "memory": ("{used} of {total} GiB of {about}", "{about} {total} GiB 중 {used} GiB"),
    "closed": (
        "{about} has been closed. Load it again.",
        "{about}은(는) 닫혔습니다. 다시 불러오세요.",
    ),
    "no_model_yet": ("No model yet", "아직 모델이 없습니다"),
    "model": ("Model", "모델"),
    "load": ("Load", "불러오기"),
    "these_fit": ("These models fit this machine.", "이 컴퓨터에 맞는 모델입니다."),
    "part_model": ("model", "모델"),
    "part_kept": ("pictures and words kept", "간직한 그림과 말"),
    "part_other": ("everything else", "그 밖"),
    "part_free": ("free", "남음"),
    "loading": ("Loading {about}", "{about} 불러오는 중"),
    "fetched": ("{done} of {all} GiB fetched", "{all} GiB 중 {done} GiB 받음"),
    "seconds": ("{about} s", "{about}초"),
    # Notices.
    "no_model": ("Load a model first.", "먼저 모델을 불러오세요."),
    "no_picture": (
        "Choose a picture first, or click an example.",
        "먼저 그림을 고르거나 예시를 누르세요.",
    ),
    "no_question": ("Write a question first.", "먼저 질문을 쓰세요."),
    "no_path": ("Write a path or an address first.", "먼저 경로나 주소를 쓰세요."),
    "opening": ("Opening {about} ...", "{about} 여는 중 ..."),
    "comes_next": (
        "{about} comes as soon as this has ended.",
        "이 일이 끝나면 {about} 차례입니다.",
    ),
    "busy": (
        "Still at work: wait for the end, or press Stop first.",
        "아직 일하는 중입니다. 끝나기를 기다리거나 먼저 멈춤을 누르세요.",
    ),
    "not_asked_yet": ("Nothing was asked yet.", "아직 물은 것이 없습니다."),
    "not_cut_short": ("No answer was cut short.", "끊긴 답이 없습니다."),
    "not_opened": ("Not opened.", "열지 않았습니다."),
    "not_opened_again": (
        "The picture could not be opened: choose it again.",
        "그림을 열 수 없었습니다. 다시 골라 주세요.",
    ),
    "nothing_arrived": (
        "No picture arrived: choose it again.",
        "그림이 오지 않았습니다. 다시 고르세요.",
    ),
    "stopping": ("Stopping ...", "멈추는 중 ..."),
    "stopped": ("Stopped.", "멈췄습니다."),
    "stopped_before": ("Stopped. Not asked: {about}.", "멈췄습니다. 묻지 않은 것: {about}."),
    "not_asked": ("Not asked: {about}.", "묻지 않은 것: {about}."),
    BROKE_OFF: (BROKE_OFF, "답이 도중에 끊겼습니다. 다시 만들기를 누르거나 다시 물어보세요."),
    "too_many": (
        "Only the first {most} of {all} pictures were taken. For many, caption a folder: "
        'caption_folder(llava, "pictures", "captions.csv").',
        "그림 {all}장 가운데 처음 {most}장만 받았습니다. 많으면 폴더에 캡션을 다세요: "
        'caption_folder(llava, "pictures", "captions.csv").',
    ),
    "interrupted": (
        "Interrupted. What the model was doing goes on; Stop ends it.",
        "중단되었습니다. 모델이 하던 일은 계속됩니다. 멈춤을 누르면 끝납니다.",
    ),
    "fault": (
        "Nothing is lost and the next question can be asked; panel.faults[-1] has the details for "
        "a report.",
        "잃은 것은 없고 다음 질문을 할 수 있습니다. 자세한 내용은 panel.faults[-1]에 있습니다.",
    ),
    "saved": ("Saved beside the notebook: {about}", "노트북 옆에 저장했습니다: {about}"),
}


def texts_of(language: str) -> Mapping[str, str]:
    """Return the texts in a language by name. Raises LlavaNbError for one that there is not."""
    if language not in LANGUAGES:
        raise LlavaNbError(
            f"The panel speaks {' and '.join(map(repr, LANGUAGES))}, not {plain(repr(language))}: "
            'caption_panel(llava, language="ko").'
        )
    return {name: both[LANGUAGES.index(language)] for name, both in _TEXTS.items()}


def presets_in(language: str) -> list[tuple[str, str]]:
    """Return the suggestions as (label, question)."""
    return [(each[LANGUAGES.index(language)], each[2]) for each in PRESETS]
