// Plays a scenario in Node: node play.mjs NAME OPTIONS, the latter in JSON. Prints what was found.

import { play } from "./scenarios.js";

console.log(JSON.stringify(await play(process.argv[2], JSON.parse(process.argv[3]))));
