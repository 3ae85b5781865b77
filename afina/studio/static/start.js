// The page "start".
import { element, getJSON } from "./api.js";

void [element, getJSON];
