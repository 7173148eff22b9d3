// Spans as the report's scripts show them. The server counts code points, JavaScript UTF-16 units: `points` has the former.

// For each mark a line below the text, so that those that overlap have different ones, the outer ones lower.
function lanes(marks) {
  const lane = new Array(marks.length).fill(0);
  const placed = [];
  const shortestFirst = marks.map((_, number) => number);
  shortestFirst.sort((a, b) => marks[a].end - marks[a].start - (marks[b].end - marks[b].start));
  for (const number of shortestFirst) {
    const mark = marks[number];
    const below = placed.filter((other) => marks[other].start < mark.end && mark.start < marks[other].end);
    lane[number] = Math.max(0, ...below.map((other) => lane[other] + 1));
    placed.push(number);
  }
  return lane;
}

// The text in pieces, [text, numbers of the marks over it, the outermost first].
function segmentsOf(points, marks) {
  const edges = new Set([0, points.length]);
  for (const mark of marks) edges.add(mark.start).add(mark.end);
  const sorted = [...edges].sort((a, b) => a - b);
  const waiting = marks.map((_, number) => number).sort((a, b) => marks[b].start - marks[a].start);
  let over = [];
  return sorted.slice(0, -1).map((left, at) => {
    over = over.filter((number) => marks[number].end > left);
    while (waiting.length && marks[waiting.at(-1)].start === left) over.push(waiting.pop());
    over.sort((a, b) => marks[b].lane - marks[a].lane);
    return [points.slice(left, sorted[at + 1]).join(""), [...over]];
  });
}

// A passage for textElement and the card. Each mark: {start, end, type, score, votes, extractedBy, verified, verdict}.
function addPassage(points, found) {
  const lane = lanes(found);
  const marks = found.map((mark, number) => ({ goldTypes: [], ...mark, lane: lane[number] }));
  const passage = { number: passages.length, segments: segmentsOf(points, marks), marks };
  passages.push(passage);
  return passage;
}

function typeNumber(name) {
  const known = data.types.indexOf(name);
  return known >= 0 ? known : data.types.push(name) - 1;
}

function modelNumbers(names) {
  return names.map((name) => data.models.indexOf(name));
}
