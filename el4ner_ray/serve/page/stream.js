// Asking the server, line by line, and what the page says meanwhile.

let asking = null; // the AbortController of the request in flight

async function annotate() {
  const repeated = repeatedLabel();
  if (repeated) {
    fail(`labels: ${repeated} stands in two rows; give it one, with one description`);
    return;
  }
  const key = byId("key")?.value ?? "";
  if (/[^\x20-\x7e]/.test(key)) {
    fail("API key: it has characters that no key has; copy it again");
    return;
  }
  asking = new AbortController();
  busy(true);
  complain("");
  say("Asking …");
  const body = requestBody();
  try {
    const headers = { "Content-Type": "application/json" };
    if (key) headers.Authorization = `Bearer ${key}`;
    const answer = await fetch("v1/annotate", { method: "POST", headers, body: JSON.stringify(body), signal: asking.signal });
    if (!answer.ok) {
      fail(await problemIn(answer));
      return;
    }
    let last = "";
    for await (const line of lines(answer.body)) {
      hear(line, body);
      last = line.kind;
    }
    if (last !== "end" && last !== "error") fail("The answer broke off: what is shown is not all. Ask again.");
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else fail(`The server does not answer: ${error.message}`);
  } finally {
    busy(false);
  }
}

async function problemIn(answer) {
  const body = await answer.text();
  try {
    return JSON.parse(body).error.message;
  } catch {
    // Not of the API: of the server that is too busy to ask it, or of a proxy.
    return `The server answers ${answer.status} ${answer.statusText}`.trim();
  }
}

async function* lines(stream) {
  // Not `for await`: Safari cannot iterate over streams.
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

const SHOWN = {
  pool: "with the most similar sentences of the pool",
  given: "with your demonstrations",
  none: "without demonstrations",
};

function hear(line, body) {
  if (line.kind === "start") {
    begin(body.texts[0], line.sentences.length, line.labels);
    byId("last-stage").textContent = line.method === "paper" ? `what ${data.verifier} verifies` : "what is probable enough";
    say(`Asking about ${plural(line.sentences.length, "sentence")}, ${SHOWN[line.demonstrations]} …`);
  } else if (line.kind === "error") {
    fail(line.error.message);
  } else if (line.kind === "end") {
    showUnlessRead();
    const asked = Object.values(line.stages).flatMap((models) => Object.entries(models));
    const requests = asked.filter(([name]) => data.models.includes(name)).reduce((sum, [, usage]) => sum + usage.requests, 0);
    say(`${plural(line.sentences, "sentence")} in ${line.seconds.toFixed(1)} s with ${plural(requests, "question")} to the models.`);
  } else {
    learn(line);
    if (line.error) complain(line.error);
  }
}

function plural(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

function busy(yes) {
  byId("go").disabled = yes;
  byId("stop").hidden = !yes;
}

function say(message) {
  byId("progress").textContent = message;
}

function fail(message) {
  say("");
  complain(message);
}

function complain(message) {
  byId("problem").textContent = message;
  byId("problem").hidden = !message;
}

byId("inputs").addEventListener("submit", (event) => {
  event.preventDefault();
  annotate();
});
byId("stop").addEventListener("click", () => asking?.abort());
byId("add-label").addEventListener("click", () => addLabel().focus());
for (const [name, description] of Object.entries(data.labels ?? EXAMPLE_LABELS)) addLabel(name, description);
watchSteps();
watchMarks(byId("passages"));
