// Run a scenario in Node: node play.mjs NAME OPTIONS, with the options as JSON. Prints the result.

import { play } from "./scenarios.js";

console.log(JSON.stringify(await play(process.argv[2], JSON.parse(process.argv[3]))));
