// The page "play".
import { element, getJSON } from "./api.js";

void [element, getJSON];
