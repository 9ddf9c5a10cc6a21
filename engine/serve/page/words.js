// All words of the page, in both languages, and the names of what the server measures.

const ENGLISH = {
  tagline: "Practise. Be heard, be seen, and hear what to do next.",
  theme: "Light / dark", practise: "What do you practise?",
  speech: "Speech", speech_what: "Pronunciation and melody", dance: "Dance", dance_what: "Movement and timing",
  drama: "Drama", drama_what: "Voice, face and body",
  text: "What you are going to say (optional)", text_hint: "Words are then compared one by one",
  llm: "Feedback in a language model's words", key: "API key of this server", key_hint: "It stays in this tab",
  start: "Start", file: "Use a file", stop: "Finish", leave: "Cancel", again: "Once more", timeline: "Timeline: seconds",
  idle: "Your camera and microphone stay off until you start.", opening: "Getting ready…", queue: "Waiting for a place…",
  camera: "Waiting for camera and microphone…", live_speech: "Speak: the page listens.", live_dance: "Move: the page watches.",
  live_drama: "Play your scene: the page listens and watches.", thinking: "Thinking about what you did…",
  replay: "Press a span to see it again.", good: "good", teacher: "teacher", by: "Words by {0}, checked against the measures",
  by_planner: "In the coach's own words", dropped: "{0} of {1} pictures looked at", first: "first feedback after {0} s",
  closed: "The server closed the connection before the lesson was complete.",
  unreachable: "The server cannot be reached. Is it still running?",
  insecure: "Browsers give camera and microphone to pages of this machine or over HTTPS alone.",
  NotAllowedError: "Camera or microphone were not allowed. Allow them in the browser's settings of this page, or use a file.",
  NotFoundError: "No camera or microphone was found. Connect one, or use a file.",
  NotReadableError: "Camera or microphone are in use by another program.",
  nothing: "The browser can neither play nor show this file.", needs_key: "This server needs an API key.",
  angry: "angry", disgust: "disgusted", fear: "afraid", happy: "happy", sad: "sad", surprise: "surprised", neutral: "calm",
};

const KOREAN = {
  tagline: "연습하세요. 듣고 보고, 다음에 할 일을 알려 드립니다.",
  theme: "밝게 / 어둡게", practise: "무엇을 연습할까요?",
  speech: "말하기", speech_what: "발음과 억양", dance: "춤", dance_what: "동작과 박자",
  drama: "연기", drama_what: "목소리, 표정, 몸짓",
  text: "말할 내용 (선택)", text_hint: "적어 두면 낱말마다 견주어 봅니다",
  llm: "언어 모델의 말로 듣기", key: "이 서버의 API 키", key_hint: "이 탭에만 남습니다",
  start: "시작", file: "파일 쓰기", stop: "마치기", leave: "그만두기", again: "다시 하기", timeline: "시간 축: 초",
  idle: "시작하기 전에는 카메라와 마이크를 켜지 않습니다.", opening: "준비하고 있어요…", queue: "자리를 기다리고 있어요…",
  camera: "카메라와 마이크를 기다리고 있어요…", live_speech: "말해 보세요. 듣고 있어요.", live_dance: "움직여 보세요. 보고 있어요.",
  live_drama: "연기해 보세요. 듣고 보고 있어요.", thinking: "하신 것을 살펴보고 있어요…",
  replay: "구간을 누르면 다시 볼 수 있어요.", good: "알맞은 값", teacher: "선생님", by: "{0}의 말, 측정값과 대조함",
  by_planner: "코치의 문장", dropped: "사진 {1}장 가운데 {0}장을 봄", first: "{0}초 뒤 첫 피드백",
  closed: "수업이 끝나기 전에 서버가 연결을 닫았습니다.",
  unreachable: "서버에 닿을 수 없습니다. 실행 중인지 확인하세요.",
  insecure: "브라우저는 이 컴퓨터의 페이지나 HTTPS에서만 카메라와 마이크를 허락합니다.",
  NotAllowedError: "카메라나 마이크가 허락되지 않았습니다. 이 페이지의 브라우저 설정에서 허락하거나 파일을 쓰세요.",
  NotFoundError: "카메라나 마이크를 찾지 못했습니다. 연결하거나 파일을 쓰세요.",
  NotReadableError: "다른 프로그램이 카메라나 마이크를 쓰고 있습니다.",
  nothing: "브라우저가 이 파일을 열 수 없습니다.", needs_key: "이 서버에는 API 키가 필요합니다.",
  angry: "화남", disgust: "싫음", fear: "두려움", happy: "기쁨", sad: "슬픔", surprise: "놀람", neutral: "차분함",
};

// scores and measures; English names are the server's own
const NAMES = {
  overall: "종합", fluency: "유창함", intonation: "억양", rhythm: "리듬", pronunciation: "발음", accuracy: "정확도", body: "몸짓",
  face: "표정", expression: "표정", voice: "목소리", timing: "박자", symmetry: "대칭", regularity: "고르기", fluidity: "부드러움",
  range: "동작의 폭", form: "자세", movement: "움직임", presence: "존재감", articulation_rate: "말 속도", speech_rate: "전체 말 속도",
  pause_ratio: "쉼의 비율", pause_count: "쉼의 수", longest_pause: "가장 긴 쉼", pitch_range: "음높이의 폭", final_slope: "끝 억양",
  rhythm_contrast: "리듬 대비", word_clarity: "낱말의 또렷함", word_accuracy: "낱말 정확도", word_goodness: "발음의 좋음",
  omitted_words: "빠진 낱말", added_words: "덧붙은 낱말", changed_words: "바뀐 낱말", loudness_variation: "소리 크기의 변화",
  gesture_rate: "몸짓의 잦기", gestures: "몸짓", audio_seconds: "소리의 길이", frames_with_face: "얼굴이 보인 사진", frames: "사진",
  frames_with_person: "사람이 보인 사진", repetitions: "반복", repetition_depth: "반복의 깊이", left_range: "왼쪽 폭", right_range: "오른쪽 폭",
};
const UNITS = { "syll/s": "음절/초", s: "초", st: "반음", count: "", "1/min": "회/분", deg: "°", "words/min": "낱말/분" };

let language = "en";

export function current() { return language; }

export function choose(code) {
  language = code === "ko" ? "ko" : "en";
  document.documentElement.lang = language;
  for (const place of document.querySelectorAll("[data-t]")) place.textContent = t(place.dataset.t);
  for (const place of document.querySelectorAll("[data-placeholder]")) place.placeholder = t(place.dataset.placeholder);
  for (const place of document.querySelectorAll("[data-label]")) place.setAttribute("aria-label", t(place.dataset.label));
}

export function t(key, ...values) {
  const text = (language === "ko" ? KOREAN : ENGLISH)[key] ?? key;
  return values.reduce((text, value, i) => text.replace(`{${i}}`, value), text);
}

export function has(key) { return key in ENGLISH; }

export function named(name) {
  const plain = name.replaceAll("_", " ");
  return language === "ko" ? (NAMES[name] ?? plain) : plain;
}

function number(value, unit) {
  return unit === "1" ? (value * 100).toFixed(0) : value.toFixed(unit === "count" || Math.abs(value) >= 100 ? 0 : 1);
}

function amount(value, unit) {
  if (unit === "1") return `${number(value, unit)} %`;
  const shown = unit === "count" ? "" : language === "ko" ? (UNITS[unit] ?? unit) : unit === "deg" ? "°" : unit;
  return `${number(value, unit)}${shown && shown !== "°" ? " " : ""}${shown}`;
}

/** A measure with its target, as people read it. */
export function measured({ name, value, unit, target }) {
  const range = target?.range && `${t("good")}: ${number(target.range[0], unit)} – ${amount(target.range[1], unit)}`;
  const other = typeof target?.reference === "number" && `${t("teacher")}: ${amount(target.reference, unit)}`;
  const beside = range || other;
  return `${named(name)} ${amount(value, unit)}${beside ? ` (${beside})` : ""}`;
}
